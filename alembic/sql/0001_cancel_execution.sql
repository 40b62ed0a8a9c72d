-- Cancel an execution: at once if no worker holds it; otherwise its owner is told, and it ends as
-- cancelled at its next boundary. False if it has finished or never was.
CREATE FUNCTION pgconductor.cancel_execution(p_execution_id uuid, p_reason text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner uuid;
    v_awaited boolean;
BEGIN
    UPDATE pgconductor.executions e
    SET state = CASE WHEN e.state = 'running' THEN e.state ELSE 'cancelled' END,
        finished_at = CASE WHEN e.state = 'running' THEN NULL ELSE pgconductor.wall_clock() END,
        cancel_requested_at = coalesce(e.cancel_requested_at, pgconductor.wall_clock()),
        cancel_reason = coalesce(e.cancel_reason, p_reason)
    WHERE e.id = p_execution_id
      AND e.state IN ('available', 'running', 'waiting')
    RETURNING e.locked_by, e.awaited INTO v_owner, v_awaited;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_owner IS NOT NULL THEN
        PERFORM pg_notify('pgconductor_control', v_owner::text);
    ELSIF v_awaited THEN
        PERFORM pg_notify('pgconductor_finished', p_execution_id::text);
    END IF;
    RETURN true;
END
$$
