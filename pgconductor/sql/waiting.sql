-- Suspended executions and what they wait for, those first that have waited longest: one row for each
-- of the first waits of each, how many waits it has, and how many waits were looked at to find them.
-- Whoever needs more looks at more.
WITH walked AS MATERIALIZED (
    SELECT s.execution_id
    FROM pgconductor.steps s
    -- As in the predicate of steps_pending_idx: always true of what is pending.
    WHERE s.pending AND s.kind <> 'step'
        AND s.created_at >= coalesce(CAST(:since AS timestamptz), '-infinity')
    ORDER BY s.created_at
    -- With all that began at the same moment: their order is not the index's.
    FETCH FIRST (CAST(:most AS bigint)) ROWS WITH TIES
)
SELECT
    looked.walked,
    page.execution_id,
    page.task_key,
    page.queue,
    page.since AS waiting_since,
    page.waits,
    s.key,
    s.kind,
    s.detail,
    CAST(s.match AS text) AS match,
    s.child_id,
    s.created_at AS since,
    s.wake_at AS until
FROM (SELECT count(*) AS walked FROM walked) AS looked
LEFT JOIN (
    SELECT w.execution_id, e.task_key, e.queue, own.since, own.waits
    FROM (SELECT DISTINCT execution_id FROM walked) AS w
    -- One by one, by their keys: the planner does not know how few they are. OFFSET tells it so.
    CROSS JOIN LATERAL (
        SELECT x.task_key, x.queue, x.state
        FROM pgconductor.executions x
        WHERE x.id = w.execution_id
        OFFSET 0
    ) AS e
    CROSS JOIN LATERAL (
        SELECT min(o.created_at) AS since, count(*) AS waits
        FROM pgconductor.steps o
        WHERE o.execution_id = w.execution_id AND o.pending
        OFFSET 0
    ) AS own
    WHERE e.state = 'waiting'
        AND (CAST(:queue AS text) IS NULL OR e.queue = CAST(:queue AS text))
        AND (CAST(:task_key AS text) IS NULL OR e.task_key = CAST(:task_key AS text))
        AND (
            CAST(:since AS timestamptz) IS NULL
            OR (own.since, w.execution_id) > (CAST(:since AS timestamptz), CAST(:after AS uuid))
        )
    ORDER BY own.since, w.execution_id
    LIMIT :limit
) AS page ON true
LEFT JOIN LATERAL (
    SELECT *
    FROM pgconductor.steps f
    WHERE f.execution_id = page.execution_id AND f.pending
    ORDER BY f.created_at, f.key
    LIMIT :few
) AS s ON true
ORDER BY page.since, page.execution_id, s.created_at, s.key
