-- Waits, children and emitted events of executions that one orchestrator holds, as they begin: each
-- must prove its owner (I1), as in record_steps.sql. What is on record comes back for each, this or
-- an earlier one of the same key.
--
-- No child is invoked for an execution that is to be cancelled: whoever cancels it has cancelled its
-- children by then. Such a start is refused, and nothing comes back for it.
WITH step AS MATERIALIZED (
    SELECT s.*
    FROM unnest(
        CAST(:ids AS uuid[]),
        CAST(:claim_numbers AS bigint[]),
        CAST(:keys AS text[]),
        CAST(:kinds AS text[]),
        CAST(:step_places AS integer[]),
        CAST(:details AS text[]),
        CAST(:delays AS interval[]),
        CAST(:untils AS timestamptz[]),
        CAST(:texts AS text[]),
        CAST(:error_types AS text[]),
        CAST(:errors AS text[]),
        CAST(:child_ids AS uuid[]),
        CAST(:queues AS text[]),
        CAST(:priorities AS integer[]),
        CAST(:max_attempts AS integer[]),
        CAST(:max_crashes AS integer[]),
        CAST(:wokes AS integer[]),
        CAST(:turns AS integer[])
    ) WITH ORDINALITY AS s (
        execution_id, claim_number, key, kind, step_place, detail, delay, until, content,
        error_type, error, child_id, queue, priority, max_attempts, max_crashes, woke, turn, place
    )
),
fence AS MATERIALIZED (
    SELECT e.id, e.claim_number, e.cancel_requested_at IS NOT NULL AS ending
    FROM pgconductor.executions e
    WHERE e.id = ANY (CAST(:ids AS uuid[]))
      AND e.state = 'running'
      AND e.locked_by = CAST(:orchestrator_id AS uuid)
    ORDER BY e.id
    FOR SHARE OF e
),
made AS (
    INSERT INTO pgconductor.steps AS r (
        execution_id, key, kind, place, pending, detail, wake_at, match, child_id, error_type, error,
        ordinal, woke, turn
    )
    SELECT
        s.execution_id, s.key, s.kind, s.step_place,
        s.kind IN ('try', 'sleep', 'child', 'event'),
        s.detail,
        CASE WHEN s.kind <> 'spawn' THEN coalesce(s.until, pgconductor.clock() + s.delay) END,
        CASE WHEN s.kind = 'event' THEN CAST(s.content AS jsonb) END,
        s.child_id, s.error_type, s.error,
        -- What begins together has the same time.
        s.place, s.woke, s.turn
    FROM step s
    JOIN fence f ON f.id = s.execution_id AND f.claim_number = s.claim_number
    WHERE NOT (f.ending AND s.kind IN ('child', 'spawn'))
    ORDER BY s.execution_id, s.key
    ON CONFLICT (execution_id, key) DO NOTHING
    RETURNING r.*
),
invoked AS (
    INSERT INTO pgconductor.executions AS e (
        id, task_key, queue, payload, priority, run_at, max_attempts, max_crashes,
        parent_id, parent_key, awaited
    )
    SELECT
        s.child_id, s.detail, s.queue, CAST(s.content AS jsonb), s.priority,
        CASE
            WHEN s.kind = 'child' THEN pgconductor.clock()
            ELSE coalesce(s.until, pgconductor.clock() + coalesce(s.delay, interval '0'))
        END,
        coalesce(s.max_attempts, t.max_attempts, 3),
        coalesce(s.max_crashes, t.max_crashes, 3),
        s.execution_id,
        CASE WHEN s.kind = 'child' THEN s.key END,
        s.kind = 'child'
    FROM step s
    JOIN made m ON m.execution_id = s.execution_id AND m.key = s.key AND m.child_id = s.child_id
    LEFT JOIN pgconductor.tasks t ON t.key = s.detail
    ORDER BY s.child_id
    RETURNING e.queue, e.run_at
),
emitted AS (
    INSERT INTO pgconductor.events (id, name, payload)
    SELECT pgconductor.uuidv7(), s.detail, nullif(CAST(s.content AS jsonb), 'null')
    FROM step s
    JOIN made m ON m.execution_id = s.execution_id AND m.key = s.key
    WHERE s.kind = 'emit'
    ORDER BY s.place
    RETURNING 1
),
told AS MATERIALIZED (
    SELECT pgconductor.notify('pgconductor_available', due.queue)
    FROM (SELECT DISTINCT i.queue FROM invoked i WHERE i.run_at <= pgconductor.clock()) AS due
    UNION ALL
    SELECT pgconductor.notify('pgconductor_waits', '')
    WHERE EXISTS (SELECT 1 FROM emitted)
)
SELECT
    f.id IS NOT NULL AS held,
    coalesce(m.key, r.key) AS key,
    coalesce(m.kind, r.kind) AS kind,
    coalesce(m.pending, r.pending) AS pending,
    coalesce(m.place, r.place) AS place,
    CAST(r.result AS text) AS result,
    coalesce(m.error_type, r.error_type) AS error_type,
    coalesce(m.error, r.error) AS error,
    coalesce(m.detail, r.detail) AS detail,
    coalesce(m.child_id, r.child_id) AS child_id,
    coalesce(m.woke, r.woke) AS woke,
    coalesce(m.turn, r.turn) AS turn,
    coalesce(m.wake_at, r.wake_at) - pgconductor.clock() AS remaining
FROM step s
LEFT JOIN fence f ON f.id = s.execution_id AND f.claim_number = s.claim_number
LEFT JOIN made m ON m.execution_id = s.execution_id AND m.key = s.key
LEFT JOIN pgconductor.steps r ON r.execution_id = s.execution_id AND r.key = s.key
WHERE (SELECT count(*) FROM told) >= 0
ORDER BY s.place
