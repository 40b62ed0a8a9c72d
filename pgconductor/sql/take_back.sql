-- running -> available, failed or cancelled, for executions that an orchestrator holds and will not
-- end itself: it is gone (crashed), or it leaves. The attempt is given back. Rows that somebody has
-- locked, a committing owner for instance, are left: the caller comes again.
WITH held AS MATERIALIZED (
    SELECT
        e.id,
        e.cancel_requested_at,
        e.crashes + CAST(CAST(:crashed AS boolean) AS integer) AS crashes,
        CASE
            WHEN e.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN CAST(:crashed AS boolean) AND e.crashes + 1 >= e.max_crashes THEN 'failed'
            ELSE 'available'
        END AS state
    FROM pgconductor.executions e
    WHERE e.claim_number > 0
      AND e.state = 'running'
      AND e.locked_by = CAST(:orchestrator_id AS uuid)
    ORDER BY e.id
    LIMIT CAST(:limit AS integer)
    FOR NO KEY UPDATE OF e SKIP LOCKED
),
changed AS (
    UPDATE pgconductor.executions e
    SET state = h.state,
        -- As it was when the row was locked; see complete.sql.
        cancel_requested_at = h.cancel_requested_at,
        attempts = greatest(e.attempts - 1, 0),
        crashes = h.crashes,
        last_error = CASE
            WHEN h.state = 'failed' THEN format('crashed its process %s times', h.crashes)
            ELSE e.last_error
        END,
        last_error_type =
            CASE WHEN h.state = 'failed' THEN 'ProcessCrashed' ELSE e.last_error_type END,
        last_error_traceback = CASE WHEN h.state = 'failed' THEN NULL ELSE e.last_error_traceback END,
        locked_by = NULL,
        locked_at = NULL,
        claim_number = NULL,
        finished_at = CASE WHEN h.state <> 'available' THEN pgconductor.wall_clock() END
    FROM held h
    WHERE e.id = h.id
    RETURNING e.id, e.state, e.queue, e.run_at, e.awaited
),
told AS MATERIALIZED (
    SELECT pgconductor.notify('pgconductor_available', due.queue)
    FROM (SELECT DISTINCT c.queue FROM changed c WHERE c.state = 'available') AS due
    UNION ALL
    SELECT pgconductor.notify('pgconductor_finished', CAST(c.id AS text))
    FROM changed c
    WHERE c.awaited AND c.state <> 'available'
)
SELECT
    count(*) FILTER (WHERE c.state = 'available') AS available,
    count(*) FILTER (WHERE c.state = 'failed') AS failed,
    count(*) FILTER (WHERE c.state = 'cancelled') AS cancelled
FROM changed c
WHERE (SELECT count(*) FROM told) >= 0
