-- End the waits of executions whose time, child or event has come, and make those available again
-- that were suspended. Anybody may call it, at any time, and as often as they like.
--
-- The executions are locked first, and their children that have finished. Those that somebody else
-- has locked are left out, and nothing comes back for them: whoever holds one, perhaps in a
-- transaction of a handler's, must not hold up the others. What is decided is decided by later
-- statements, which see what was committed until there were locks. Each call that ends waits of an
-- execution is counted in wakes: a handler that is just being suspended says how many it has seen,
-- and if there are more, it is not suspended.
--
-- p_seen is the number of wakes that the caller knows of, for each execution, or NULL where the
-- caller is not its owner; such an owner is notified. Ends of waits beyond it come back with the
-- number of wakes; who is not the owner is told neither.
--
-- A wait for an event takes the first one that was emitted since the execution was invoked, that
-- matches, and that no other wait of the execution has taken.
CREATE FUNCTION pgconductor.settle(p_ids uuid[], p_seen integer[])
RETURNS TABLE (
    execution_id uuid,
    wakes integer,
    key text,
    kind text,
    result text,
    error_type text,
    error text,
    detail text,
    child_id uuid
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_left bigint;
    v_locked uuid[];
    v_here uuid[];
    v_untold uuid[] := ARRAY(
        SELECT c.id
        FROM pgconductor.executions c
        WHERE c.parent_id = ANY (p_ids)
          AND c.parent_key IS NOT NULL
          AND c.awaited
          AND c.finished_at IS NOT NULL
    );
BEGIN
    v_locked := ARRAY(
        SELECT e.id
        FROM pgconductor.executions e
        WHERE e.id = ANY (p_ids || v_untold)
        FOR NO KEY UPDATE OF e SKIP LOCKED
    );
    v_here := ARRAY(SELECT k.id FROM unnest(p_ids) AS k (id) WHERE k.id = ANY (v_locked));
    -- A child that is told of must be locked as well as whoever is told, if that is there at all.
    v_untold := ARRAY(
        SELECT c.id
        FROM pgconductor.executions c
        WHERE c.id = ANY (ARRAY(SELECT unnest(v_untold) INTERSECT SELECT unnest(v_locked)))
          AND (
              c.parent_id = ANY (v_here)
              OR NOT EXISTS (SELECT 1 FROM pgconductor.executions p WHERE p.id = c.parent_id)
          )
    );

    LOOP
        WITH found AS MATERIALIZED (
            SELECT
                s.execution_id, s.key, s.kind, s.created_at,
                v.id AS event_id,
                c.id IS NOT NULL AS ended,
                CASE WHEN c.state = 'completed' THEN c.result WHEN c.id IS NULL THEN v.payload END
                    AS result,
                CASE
                    WHEN c.state = 'failed' THEN coalesce(c.last_error_type, 'Exception')
                    WHEN c.state = 'cancelled' THEN '(cancelled)'
                END AS error_type,
                CASE
                    WHEN c.state = 'failed' THEN coalesce(c.last_error, '')
                    WHEN c.state = 'cancelled' THEN coalesce(c.cancel_reason, '')
                END AS error
            FROM pgconductor.steps s
            JOIN pgconductor.executions e ON e.id = s.execution_id
            LEFT JOIN pgconductor.executions c ON c.id = s.child_id AND c.finished_at IS NOT NULL
            LEFT JOIN LATERAL (
                SELECT x.id, x.payload
                FROM pgconductor.events x
                WHERE s.kind = 'event'
                  AND x.name = s.detail
                  AND x.emitted_at >= e.created_at
                  AND (s.match IS NULL OR x.payload @> s.match)
                  AND NOT EXISTS (
                      SELECT 1
                      FROM pgconductor.steps t
                      WHERE t.execution_id = s.execution_id AND t.event_id = x.id
                  )
                ORDER BY x.emitted_at, x.id
                LIMIT 1
            ) AS v ON true
            WHERE s.execution_id = ANY (v_here)
              AND s.pending
              AND (c.id IS NOT NULL OR v.id IS NOT NULL OR s.wake_at <= pgconductor.clock())
        ),
        -- Of the waits that an event has come for, the oldest takes its own, and the others look
        -- again: it may have been theirs, too.
        chosen AS (
            SELECT DISTINCT ON (f.execution_id, CASE WHEN f.event_id IS NULL THEN f.key END) f.*
            FROM found f
            ORDER BY
                f.execution_id, CASE WHEN f.event_id IS NULL THEN f.key END, f.created_at, f.key
        ),
        timed AS (
            SELECT c.*, c.kind IN ('child', 'event') AND NOT c.ended AND c.event_id IS NULL AS late
            FROM chosen c
        ),
        changed AS (
            UPDATE pgconductor.steps s
            SET pending = false,
                result = t.result,
                error_type = CASE
                    WHEN t.kind = 'try' THEN s.error_type
                    WHEN t.late THEN '(timeout)'
                    ELSE t.error_type
                END,
                error = CASE
                    WHEN t.kind = 'try' THEN s.error
                    WHEN t.late THEN 'it did not come in time'
                    ELSE t.error
                END,
                event_id = t.event_id,
                woke = e.wakes + 1,
                ended_at = pgconductor.wall_clock()
            FROM timed t
            JOIN pgconductor.executions e ON e.id = t.execution_id
            WHERE s.execution_id = t.execution_id AND s.key = t.key AND s.pending
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM found) - (SELECT count(*) FROM changed) INTO v_left;
        EXIT WHEN v_left = 0;
    END LOOP;

    WITH woken AS (
        UPDATE pgconductor.executions e
        SET wakes = e.wakes + 1,
            state = CASE WHEN e.state = 'waiting' THEN 'available' ELSE e.state END,
            run_at = CASE WHEN e.state = 'waiting' THEN pgconductor.clock() ELSE e.run_at END
        WHERE e.id = ANY (v_here)
          AND EXISTS (
              SELECT 1 FROM pgconductor.steps s WHERE s.execution_id = e.id AND s.woke > e.wakes
          )
        RETURNING e.id, e.state, e.queue, e.run_at, e.locked_by
    ),
    told AS MATERIALIZED (
        SELECT pgconductor.notify('pgconductor_available', due.queue)
        FROM (
            SELECT w.queue FROM woken w WHERE w.state = 'available' AND w.run_at <= pgconductor.clock()
            UNION
            -- A fetch that was woken for it may have passed it over because this locked it.
            SELECT e.queue
            FROM pgconductor.executions e
            WHERE e.id = ANY (v_here) AND e.state = 'available' AND e.run_at <= pgconductor.clock()
        ) AS due
        UNION ALL
        SELECT pgconductor.notify('pgconductor_control', CAST(w.locked_by AS text))
        FROM woken w
        JOIN unnest(p_ids, p_seen) AS k (id, seen) ON k.id = w.id
        WHERE w.state = 'running' AND k.seen IS NULL
    )
    SELECT count(*) FROM told INTO v_left;

    -- Those that have finished since are left for another call: their parents may not have been told,
    -- and they are not locked.
    UPDATE pgconductor.executions c
    SET awaited = false
    WHERE c.id = ANY (v_untold) AND c.awaited AND c.finished_at IS NOT NULL;

    RETURN QUERY
    SELECT
        e.id, CASE WHEN k.seen IS NOT NULL THEN e.wakes END, s.key, s.kind, CAST(s.result AS text), s.error_type, s.error, s.detail,
        s.child_id
    FROM unnest(p_ids, p_seen) AS k (id, seen)
    JOIN pgconductor.executions e ON e.id = k.id
    LEFT JOIN pgconductor.steps s ON s.execution_id = e.id AND s.woke > k.seen
    WHERE k.id = ANY (v_here)
    ORDER BY e.id, s.created_at, s.key;
END
$$
