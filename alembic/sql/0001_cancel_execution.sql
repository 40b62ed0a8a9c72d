-- Cancel an execution: at once if no worker holds it; otherwise its owner is told, and it ends as
-- cancelled at its next boundary. Its children that it waits for, and theirs, are cancelled with it
-- unless p_children is false. False if it has finished or never was.
--
-- All are locked in the order of their ids, as completing does, hence the look at the children before
-- there is a lock. No child comes after it: whoever makes one holds its parent's row in share mode,
-- and looks for a cancellation.
CREATE FUNCTION pgconductor.cancel_execution(
    p_execution_id uuid, p_reason text DEFAULT NULL, p_children boolean DEFAULT true
)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_all uuid[] := '{}';
    v_more uuid[];
    v_done boolean := false;
    v_row record;
BEGIN
    LOOP
        v_more := ARRAY(
            WITH RECURSIVE family AS (
                SELECT e.id
                FROM pgconductor.executions e
                WHERE e.id = p_execution_id AND e.finished_at IS NULL
                UNION
                SELECT c.id
                FROM family f
                JOIN pgconductor.executions c ON c.parent_id = f.id
                WHERE p_children AND c.parent_key IS NOT NULL AND c.finished_at IS NULL
            )
            SELECT f.id FROM family f WHERE f.id <> ALL (v_all)
        );
        EXIT WHEN cardinality(v_more) = 0;
        v_all := v_all || v_more;
        PERFORM 1
        FROM pgconductor.executions e
        WHERE e.id = ANY (v_all)
        ORDER BY e.id
        FOR NO KEY UPDATE OF e;
    END LOOP;

    FOR v_row IN
        UPDATE pgconductor.executions e
        SET state = CASE WHEN e.state = 'running' THEN e.state ELSE 'cancelled' END,
            finished_at = CASE WHEN e.state = 'running' THEN NULL ELSE pgconductor.wall_clock() END,
            cancel_requested_at = coalesce(e.cancel_requested_at, pgconductor.wall_clock()),
            cancel_reason = coalesce(
                e.cancel_reason,
                CASE WHEN e.id = p_execution_id THEN p_reason ELSE 'its parent was cancelled' END
            )
        WHERE e.id = ANY (v_all)
          AND e.state IN ('available', 'running', 'waiting')
          -- It may have finished while its lock was waited for: then its children go on.
          AND EXISTS (
              SELECT 1
              FROM pgconductor.executions p
              WHERE p.id = p_execution_id AND p.finished_at IS NULL
          )
        RETURNING e.id, e.locked_by, e.awaited, e.parent_key
    LOOP
        v_done := true;
        IF v_row.locked_by IS NOT NULL THEN
            PERFORM pgconductor.notify('pgconductor_control', v_row.locked_by::text);
        ELSIF v_row.awaited THEN
            PERFORM pgconductor.notify('pgconductor_finished', v_row.id::text);
        END IF;
        IF v_row.parent_key IS NOT NULL THEN
            PERFORM pgconductor.notify('pgconductor_waits', '');
        END IF;
    END LOOP;
    RETURN v_done;
END
$$
