-- Suspended executions and what they wait for, those first that have waited longest: one row for each
-- of the first waits of each, and how many waits it has.
SELECT
    page.execution_id,
    page.task_key,
    page.queue,
    page.since AS waiting_since,
    own.waits,
    s.key,
    s.kind,
    s.detail,
    CAST(s.match AS text) AS match,
    s.child_id,
    s.created_at AS since,
    s.wake_at AS until
FROM (
    SELECT oldest.execution_id, e.task_key, e.queue, oldest.created_at AS since
    FROM pgconductor.steps oldest
    -- One by one, until there are enough. The planner does not know that what is pending is of what
    -- waits, and would rather read all executions: OFFSET keeps it from that.
    CROSS JOIN LATERAL (
        SELECT x.task_key, x.queue, x.state
        FROM pgconductor.executions x
        WHERE x.id = oldest.execution_id
        OFFSET 0
    ) AS e
    -- As in the predicate of steps_pending_idx: always true of what is pending.
    WHERE oldest.pending AND oldest.kind <> 'step'
        AND oldest.created_at >= coalesce(CAST(:since AS timestamptz), '-infinity')
        AND (
            CAST(:since AS timestamptz) IS NULL
            OR (oldest.created_at, oldest.execution_id)
                > (CAST(:since AS timestamptz), CAST(:after AS uuid))
        )
        AND e.state = 'waiting'
        AND (CAST(:queue AS text) IS NULL OR e.queue = CAST(:queue AS text))
        AND (CAST(:task_key AS text) IS NULL OR e.task_key = CAST(:task_key AS text))
        -- An execution is where its first wait is. It is looked for among its own steps.
        AND NOT EXISTS (
            SELECT
            FROM pgconductor.steps other
            WHERE other.execution_id = oldest.execution_id AND other.pending
                AND (other.created_at, other.key) < (oldest.created_at, oldest.key)
            OFFSET 0
        )
    ORDER BY oldest.created_at, oldest.execution_id
    LIMIT :limit
) AS page
CROSS JOIN LATERAL (
    SELECT count(*) AS waits
    FROM pgconductor.steps counted
    WHERE counted.execution_id = page.execution_id AND counted.pending
) AS own
CROSS JOIN LATERAL (
    SELECT *
    FROM pgconductor.steps first
    WHERE first.execution_id = page.execution_id AND first.pending
    ORDER BY first.created_at, first.key
    LIMIT :few
) AS s
ORDER BY page.since, page.execution_id, s.created_at, s.key
