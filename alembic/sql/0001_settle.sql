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
-- Which wait takes which event, match_events says. p_until is the last of the events, by the time at
-- which they were emitted, that the caller is about to mark as matched; NULL if it marks none.
CREATE FUNCTION pgconductor.settle(p_ids uuid[], p_seen integer[], p_until timestamptz DEFAULT NULL)
RETURNS TABLE (
    execution_id uuid,
    wakes integer,
    key text,
    kind text,
    result text,
    error_type text,
    error text,
    detail text,
    child_id uuid,
    woke integer
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

    -- Events first: one that is there when the time is up is taken.
    UPDATE pgconductor.steps s
    SET pending = false,
        result = v.payload,
        event_id = m.event_id,
        woke = e.wakes + 1,
        ended_at = pgconductor.wall_clock()
    FROM pgconductor.match_events(v_here, p_until) m
    JOIN pgconductor.events v ON v.id = m.event_id
    JOIN pgconductor.executions e ON e.id = m.execution_id
    WHERE s.execution_id = m.execution_id AND s.key = m.key AND s.pending;

    -- Nothing begins while the executions are locked: these are the waits that were just matched.
    -- They are told by ended_at, not by pending, which would lead through the index of all waits.
    UPDATE pgconductor.steps s
    SET looked = true
    WHERE s.execution_id = ANY (v_here) AND s.kind = 'event' AND s.ended_at IS NULL AND NOT s.looked;

    UPDATE pgconductor.steps s
    SET pending = false,
        result = CASE WHEN c.state = 'completed' THEN c.result END,
        error_type = CASE
            WHEN s.kind = 'try' THEN s.error_type
            WHEN c.state = 'failed' THEN coalesce(c.last_error_type, 'Exception')
            WHEN c.state = 'cancelled' THEN '(cancelled)'
            WHEN c.id IS NULL AND s.kind IN ('child', 'event') THEN '(timeout)'
        END,
        error = CASE
            WHEN s.kind = 'try' THEN s.error
            WHEN c.state = 'failed' THEN coalesce(c.last_error, '')
            WHEN c.state = 'cancelled' THEN coalesce(c.cancel_reason, '')
            WHEN c.id IS NULL AND s.kind IN ('child', 'event') THEN 'it did not come in time'
        END,
        woke = e.wakes + 1,
        ended_at = pgconductor.wall_clock()
    FROM pgconductor.steps w
    JOIN pgconductor.executions e ON e.id = w.execution_id
    LEFT JOIN pgconductor.executions c ON c.id = w.child_id AND c.finished_at IS NOT NULL
    WHERE w.execution_id = ANY (v_here)
      AND w.pending
      AND (c.id IS NOT NULL OR w.wake_at <= pgconductor.clock())
      AND s.execution_id = w.execution_id AND s.key = w.key AND s.pending;

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
        s.child_id, s.woke
    FROM unnest(p_ids, p_seen) AS k (id, seen)
    JOIN pgconductor.executions e ON e.id = k.id
    LEFT JOIN pgconductor.steps s ON s.execution_id = e.id AND s.woke > k.seen
    WHERE k.id = ANY (v_here)
    ORDER BY e.id, s.created_at, s.ordinal, s.key;
END
$$
