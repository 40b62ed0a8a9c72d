-- What invocations of the scope 'unstarted' ran into: executions that nobody has fetched yet. They
-- are locked, so that nobody fetches them until this transaction has ended: a handler that stands
-- for an invocation starts when what came with it is there to be seen. One that is being fetched is
-- waited for, and is not returned.
--
-- Several transactions may join the same execution at once. One that replaces its payload waits for
-- the others, and they for it: it is due no later than anybody has asked for, and no less urgent.
CREATE FUNCTION pgconductor.join_unstarted(
    p_open bigint[],
    p_new uuid[],
    p_ids uuid[],
    p_task_keys text[],
    p_queues text[],
    p_payloads jsonb[],
    p_run_ats timestamptz[],
    p_delays interval[],
    p_priorities integer[],
    p_dedupe_keys text[],
    p_dedupe_scopes text[],
    p_dedupe_replaces boolean[]
) RETURNS TABLE (place bigint, id uuid)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_places bigint[];
    v_found uuid[];
BEGIN
    -- What is updated below is locked for that: two that had locked it for sharing would wait in a
    -- circle.
    IF true = ANY (p_dedupe_replaces) THEN
        SELECT array_agg(j.place), array_agg(j.id) INTO v_places, v_found
        FROM (
            SELECT s.place, e.id
            FROM unnest(p_ids, p_task_keys, p_queues, p_dedupe_keys, p_dedupe_scopes)
                WITH ORDINALITY AS s (id, task_key, queue, dedupe_key, scope, place)
            JOIN pgconductor.executions e
              ON e.task_key = s.task_key AND e.queue = s.queue AND e.dedupe_key = s.dedupe_key
             AND e.dedupe_scope = 'unstarted' AND e.finished_at IS NULL
            WHERE s.place = ANY (p_open) AND s.id <> ALL (p_new) AND s.scope = 'unstarted'
            ORDER BY s.task_key, s.queue, s.dedupe_key, s.place
            FOR NO KEY UPDATE OF e
        ) AS j;
    ELSE
        SELECT array_agg(j.place), array_agg(j.id) INTO v_places, v_found
        FROM (
            SELECT s.place, e.id
            FROM unnest(p_ids, p_task_keys, p_queues, p_dedupe_keys, p_dedupe_scopes)
                WITH ORDINALITY AS s (id, task_key, queue, dedupe_key, scope, place)
            JOIN pgconductor.executions e
              ON e.task_key = s.task_key AND e.queue = s.queue AND e.dedupe_key = s.dedupe_key
             AND e.dedupe_scope = 'unstarted' AND e.finished_at IS NULL
            WHERE s.place = ANY (p_open) AND s.id <> ALL (p_new) AND s.scope = 'unstarted'
            ORDER BY s.task_key, s.queue, s.dedupe_key, s.place
            FOR SHARE OF e
        ) AS j;
    END IF;

    UPDATE pgconductor.executions e
    SET payload = r.payload,
        run_at = least(e.run_at, r.run_at),
        priority = greatest(e.priority, r.priority)
    FROM (
        SELECT
            f.id,
            (array_agg(s.payload ORDER BY s.place DESC))[1] AS payload,
            min(coalesce(s.run_at, pgconductor.clock() + coalesce(s.delay, interval '0'))) AS run_at,
            max(s.priority) AS priority
        FROM unnest(v_places, v_found) AS f (place, id)
        JOIN unnest(p_payloads, p_run_ats, p_delays, p_priorities, p_dedupe_replaces)
            WITH ORDINALITY AS s (payload, run_at, delay, priority, replaces, place)
          ON s.place = f.place
        WHERE s.replaces
        GROUP BY f.id
    ) AS r
    WHERE e.id = r.id;

    -- Whoever looked meanwhile has left it where it was.
    PERFORM pgconductor.notify('pgconductor_available', due.queue)
    FROM (
        SELECT DISTINCT e.queue
        FROM pgconductor.executions e
        WHERE e.id = ANY (v_found) AND e.run_at <= pgconductor.clock()
    ) AS due;

    RETURN QUERY SELECT u.place, u.id FROM unnest(v_places, v_found) AS u (place, id);
END
$$
