-- running -> completed, failed, available, waiting or cancelled: a batch of outcomes, each of which must
-- prove its owner (I1). A cancellation that was asked for wins over whatever the handler did.
--
-- For each outcome one row: its state if it was written now; its state and known = true if an
-- earlier report of the same owner had finished it; no state if the reporter is not the owner.
WITH outcome AS MATERIALIZED (
    SELECT o.*
    FROM unnest(
        CAST(:ids AS uuid[]),
        CAST(:orchestrator_ids AS uuid[]),
        CAST(:claim_numbers AS bigint[]),
        CAST(:kinds AS text[]),
        CAST(:results AS text[]),
        CAST(:error_types AS text[]),
        CAST(:errors AS text[]),
        CAST(:tracebacks AS text[]),
        CAST(:delays AS interval[]),
        CAST(:wakes AS integer[])
    ) AS o (
        id, orchestrator_id, claim_number, kind, result, error_type, error, traceback, delay, wakes
    )
),
held AS MATERIALIZED (
    SELECT
        o.*,
        e.cancel_requested_at,
        CASE
            WHEN e.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN o.kind = 'completed' THEN 'completed'
            WHEN o.kind = 'released' THEN 'available'
            -- Something that it waits for has come since the handler last looked.
            WHEN o.kind = 'suspended' AND e.wakes > o.wakes THEN 'available'
            WHEN o.kind = 'suspended' THEN 'waiting'
            WHEN o.delay IS NOT NULL AND e.attempts < e.max_attempts THEN 'available'
            ELSE 'failed'
        END AS state
    FROM outcome o
    JOIN pgconductor.executions e ON e.id = o.id
    WHERE e.state = 'running'
      AND e.locked_by = o.orchestrator_id
      AND e.claim_number = o.claim_number
    -- Outcomes come as they arrive: without an order, whoever locks rows by id would wait in a circle.
    ORDER BY o.id
    FOR NO KEY UPDATE OF e
),
changed AS (
    UPDATE pgconductor.executions e
    SET state = h.state,
        -- As it was when the row was locked: a cancellation may have committed since this statement
        -- began, and constraints are checked on the row as it was then before the newest is read.
        cancel_requested_at = h.cancel_requested_at,
        result = CASE WHEN h.state = 'completed' THEN CAST(h.result AS jsonb) END,
        last_error = CASE WHEN h.kind = 'failed' THEN h.error ELSE e.last_error END,
        last_error_type = CASE WHEN h.kind = 'failed' THEN h.error_type ELSE e.last_error_type END,
        last_error_traceback =
            CASE WHEN h.kind = 'failed' THEN h.traceback ELSE e.last_error_traceback END,
        attempts = CASE
            WHEN h.kind IN ('released', 'suspended') THEN greatest(e.attempts - 1, 0)
            ELSE e.attempts
        END,
        run_at = CASE
            WHEN h.state = 'available' AND h.delay IS NOT NULL THEN pgconductor.clock() + h.delay
            ELSE e.run_at
        END,
        locked_by = NULL,
        locked_at = NULL,
        claim_number = NULL,
        finished_at =
            CASE WHEN h.state NOT IN ('available', 'waiting') THEN pgconductor.wall_clock() END,
        finished_by = CASE WHEN h.state NOT IN ('available', 'waiting') THEN h.orchestrator_id END,
        finished_claim = CASE WHEN h.state NOT IN ('available', 'waiting') THEN h.claim_number END
    FROM held h
    WHERE e.id = h.id
    RETURNING e.id, e.state, e.queue, e.run_at, e.awaited
),
told AS MATERIALIZED (
    SELECT pgconductor.notify('pgconductor_available', due.queue)
    FROM (
        SELECT DISTINCT c.queue
        FROM changed c
        WHERE c.state = 'available' AND c.run_at <= pgconductor.clock()
    ) AS due
    UNION ALL
    SELECT pgconductor.notify('pgconductor_finished', CAST(c.id AS text))
    FROM changed c
    WHERE c.awaited AND c.state NOT IN ('available', 'waiting')
)
SELECT
    o.id,
    coalesce(c.state, f.state) AS state,
    f.id IS NOT NULL AS known
FROM outcome o
LEFT JOIN changed c ON c.id = o.id
LEFT JOIN pgconductor.executions f
    ON f.id = o.id
   AND f.finished_by = o.orchestrator_id
   AND f.finished_claim = o.claim_number
WHERE (SELECT count(*) FROM told) >= 0
