-- A new execution of the same task, queue, payload, priority and limits as another, whatever state
-- that is in: with copies of what was recorded before a step of it, or without any.
--
-- What was pending is not copied: it begins anew. Nor are failed tries, which count against the step
-- that they are tries of, and which may be the very one to begin at. A child that is on record is
-- known to the new execution by its result; it stays the old one's.
WITH source AS MATERIALIZED (
    SELECT e.id, e.task_key, e.queue, e.payload, e.priority, e.max_attempts, e.max_crashes, e.wakes
    FROM pgconductor.executions e
    WHERE e.id = CAST(:id AS uuid)
),
bound AS MATERIALIZED (
    SELECT k.created_at, k.place
    FROM source o
    JOIN pgconductor.steps k ON k.execution_id = o.id AND k.key = CAST(:from_step AS text)
),
made AS (
    INSERT INTO pgconductor.executions AS e (
        id, task_key, queue, payload, priority, max_attempts, max_crashes, wakes
    )
    SELECT
        pgconductor.uuidv7(), o.task_key, o.queue, o.payload, o.priority, o.max_attempts,
        o.max_crashes, o.wakes
    FROM source o
    WHERE CAST(:from_step AS text) IS NULL OR EXISTS (SELECT 1 FROM bound)
    RETURNING e.id, e.queue
),
copied AS (
    INSERT INTO pgconductor.steps (
        execution_id, key, kind, place, result, error_type, error, detail, child_id, woke, turn,
        created_at, ended_at
    )
    SELECT
        m.id, s.key, s.kind, s.place, s.result, s.error_type, s.error, s.detail, s.child_id,
        s.woke, s.turn, s.created_at, s.ended_at
    FROM made m
    CROSS JOIN bound b
    CROSS JOIN source o
    JOIN pgconductor.steps s ON s.execution_id = o.id
    -- As in retry.sql.
    WHERE coalesce(s.place < b.place, s.created_at < b.created_at)
      AND NOT s.pending AND s.kind <> 'try'
),
told AS MATERIALIZED (
    SELECT pgconductor.notify('pgconductor_available', m.queue) FROM made m
)
SELECT
    (SELECT m.id FROM made m) AS id,
    EXISTS (SELECT 1 FROM source) AS found,
    (SELECT count(*) FROM told) AS told
