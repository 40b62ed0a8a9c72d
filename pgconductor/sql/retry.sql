-- failed or cancelled -> available, by an operator: with all its attempts and crashes anew. Not
-- while an unfinished execution has its dedupe key.
WITH target AS MATERIALIZED (
    SELECT e.id, e.task_key, e.queue, e.dedupe_key
    FROM pgconductor.executions e
    WHERE e.id = CAST(:id AS uuid) AND e.state IN ('failed', 'cancelled')
    FOR NO KEY UPDATE OF e
),
rival AS MATERIALIZED (
    SELECT 1
    FROM target t
    JOIN pgconductor.executions r
      ON r.task_key = t.task_key AND r.queue = t.queue AND r.dedupe_key = t.dedupe_key
     AND r.finished_at IS NULL
),
dropped AS (
    DELETE FROM pgconductor.steps s
    USING target t
    WHERE s.execution_id = t.id
      AND CAST(:from_scratch AS boolean)
      AND NOT EXISTS (SELECT 1 FROM rival)
),
changed AS (
    UPDATE pgconductor.executions e
    SET state = 'available',
        run_at = pgconductor.clock(),
        attempts = 0,
        crashes = 0,
        cancel_requested_at = NULL,
        cancel_reason = NULL,
        awaited = false,
        finished_at = NULL,
        finished_by = NULL,
        finished_claim = NULL
    FROM target t
    WHERE e.id = t.id AND NOT EXISTS (SELECT 1 FROM rival)
    RETURNING e.id, e.queue
),
told AS MATERIALIZED (
    SELECT pg_notify('pgconductor_available', c.queue) FROM changed c
)
SELECT
    EXISTS (SELECT 1 FROM changed) AS changed,
    EXISTS (SELECT 1 FROM rival) AS rival,
    (SELECT count(*) FROM told) AS told
