-- The one place that makes executions: arrays of equal length, an element each. Every way to
-- invoke, from Python or from SQL, ends here. Rows come back in no order; place says which is which.
--
-- An invocation with a dedupe key that an unfinished execution has (or any retained one, where its
-- scope is 'retained') returns that execution. The insert waits for a concurrent one of the same
-- key; what it ran into is then read by a statement of its own, which sees what was committed
-- meanwhile. That one may have finished in between, hence the loop.
--
-- With the scope 'unstarted' it returns one that nobody has fetched, and join_unstarted sees to it
-- that nobody does until this transaction has ended. Keys of this scope are their own: they are not
-- compared with what was invoked with another.
CREATE FUNCTION pgconductor.invoke_executions(
    p_ids uuid[],
    p_task_keys text[],
    p_queues text[],
    p_payloads jsonb[],
    p_run_ats timestamptz[],
    p_delays interval[],
    p_priorities integer[],
    p_dedupe_keys text[],
    p_dedupe_scopes text[],
    p_dedupe_replaces boolean[],
    p_max_attempts integer[],
    p_max_crashes integer[]
) RETURNS TABLE (place integer, id uuid, created boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_retained constant boolean := coalesce('retained' = ANY (p_dedupe_scopes), false);
    v_unstarted constant boolean := coalesce('unstarted' = ANY (p_dedupe_scopes), false);
    v_all constant bigint[] := ARRAY(SELECT generate_series(1::bigint, cardinality(p_ids)));
    -- NULL for all of them: looking up each place in a long array would take quadratic time.
    v_open bigint[] := CASE WHEN v_retained THEN v_all END;
    v_new uuid[];
    v_places bigint[];
    v_mine uuid[];
    v_found uuid[];
BEGIN
    FOR v_try IN 1..100 LOOP
        IF v_retained THEN
            SELECT array_agg(r.place), array_agg(r.found) INTO v_places, v_found
            FROM (
                SELECT s.place,
                       pgconductor.retained_execution(s.task_key, s.queue, s.dedupe_key) AS found
                FROM unnest(p_task_keys, p_queues, p_dedupe_keys, p_dedupe_scopes)
                    WITH ORDINALITY AS s (task_key, queue, dedupe_key, scope, place)
                WHERE s.scope = 'retained' AND s.place = ANY (v_open)
                  -- An unfinished one comes before any that has finished: the insert meets it.
                  AND NOT EXISTS (
                      SELECT 1
                      FROM pgconductor.executions e
                      WHERE e.task_key = s.task_key
                        AND e.queue = s.queue
                        AND e.dedupe_key = s.dedupe_key
                        AND e.dedupe_scope IS NULL
                        AND e.finished_at IS NULL
                  )
            ) AS r
            WHERE r.found IS NOT NULL;
            RETURN QUERY SELECT u.p::integer, u.f, false FROM unnest(v_places, v_found) AS u (p, f);
            v_open := ARRAY(SELECT unnest(v_open) EXCEPT SELECT unnest(v_places));
        END IF;

        -- In the order of the keys, so that two batches never wait for one another in a circle.
        WITH inserted AS (
            INSERT INTO pgconductor.executions AS e (
                id, task_key, queue, payload, run_at, priority, dedupe_key, dedupe_scope,
                max_attempts, max_crashes
            )
            SELECT
                s.id, s.task_key, s.queue, s.payload,
                coalesce(s.run_at, pgconductor.clock() + coalesce(s.delay, interval '0')),
                s.priority, s.dedupe_key,
                CASE WHEN s.dedupe_key IS NOT NULL AND s.scope = 'unstarted' THEN s.scope END,
                coalesce(s.max_attempts, t.max_attempts, 3),
                coalesce(s.max_crashes, t.max_crashes, 3)
            FROM unnest(
                p_ids, p_task_keys, p_queues, p_payloads, p_run_ats, p_delays, p_priorities,
                p_dedupe_keys, p_dedupe_scopes, p_max_attempts, p_max_crashes
            ) WITH ORDINALITY AS s (
                id, task_key, queue, payload, run_at, delay, priority,
                dedupe_key, scope, max_attempts, max_crashes, place
            )
            LEFT JOIN pgconductor.tasks t ON t.key = s.task_key
            WHERE v_open IS NULL OR s.place = ANY (v_open)
            ORDER BY s.task_key, s.queue, s.dedupe_key, s.place
            ON CONFLICT (
                task_key, queue, dedupe_key, (nullif(coalesce(dedupe_scope, ''), 'started'))
            )
                WHERE dedupe_key IS NOT NULL AND finished_at IS NULL
                DO NOTHING
            RETURNING e.id, e.queue, e.run_at
        ), told AS MATERIALIZED (
            -- Only what is due now wakes anybody.
            SELECT pgconductor.notify('pgconductor_available', due.queue)
            FROM (
                SELECT DISTINCT i.queue FROM inserted i WHERE i.run_at <= pgconductor.clock()
            ) AS due
        )
        SELECT coalesce(array_agg(i.id), '{}') INTO v_new
        FROM inserted i
        WHERE (SELECT count(*) FROM told) >= 0;

        IF v_open IS NULL AND cardinality(v_new) = cardinality(p_ids) THEN
            RETURN QUERY
            SELECT s.place::integer, s.id, true
            FROM unnest(p_ids) WITH ORDINALITY AS s (id, place);
            RETURN;
        END IF;
        v_open := coalesce(v_open, v_all);

        IF v_retained THEN
            -- One of the same key may have finished between the look above and the insert.
            SELECT array_agg(r.place), array_agg(r.id), array_agg(r.found)
            INTO v_places, v_mine, v_found
            FROM (
                SELECT s.place, s.id,
                       pgconductor.retained_execution(s.task_key, s.queue, s.dedupe_key) AS found
                FROM unnest(p_ids, p_task_keys, p_queues, p_dedupe_keys, p_dedupe_scopes)
                    WITH ORDINALITY AS s (id, task_key, queue, dedupe_key, scope, place)
                WHERE s.scope = 'retained' AND s.id = ANY (v_new)
            ) AS r
            WHERE r.found IS NOT NULL;
            DELETE FROM pgconductor.executions e WHERE e.id = ANY (v_mine);
            RETURN QUERY SELECT u.p::integer, u.f, false FROM unnest(v_places, v_found) AS u (p, f);
            v_open := ARRAY(SELECT unnest(v_open) EXCEPT SELECT unnest(v_places));
            v_new := ARRAY(SELECT unnest(v_new) EXCEPT SELECT unnest(v_mine));
        END IF;

        RETURN QUERY
        SELECT s.place::integer, s.id, true
        FROM unnest(p_ids) WITH ORDINALITY AS s (id, place)
        WHERE s.id = ANY (v_new) AND s.place = ANY (v_open);
        IF cardinality(v_new) = cardinality(v_open) THEN
            RETURN;
        END IF;

        SELECT array_agg(s.place), array_agg(e.id) INTO v_places, v_found
        FROM unnest(p_ids, p_task_keys, p_queues, p_dedupe_keys, p_dedupe_scopes)
            WITH ORDINALITY AS s (id, task_key, queue, dedupe_key, scope, place)
        JOIN pgconductor.executions e
          ON e.task_key = s.task_key AND e.queue = s.queue AND e.dedupe_key = s.dedupe_key
         AND e.dedupe_scope IS NULL AND e.finished_at IS NULL
        WHERE s.place = ANY (v_open) AND s.id <> ALL (v_new)
          AND s.scope IS DISTINCT FROM 'unstarted';
        IF v_unstarted THEN
            SELECT v_places || array_agg(j.place), v_found || array_agg(j.id)
            INTO v_places, v_found
            FROM pgconductor.join_unstarted(
                v_open, v_new, p_ids, p_task_keys, p_queues, p_payloads, p_run_ats, p_delays,
                p_priorities, p_dedupe_keys, p_dedupe_scopes, p_dedupe_replaces
            ) AS j;
        END IF;
        RETURN QUERY SELECT u.p::integer, u.f, false FROM unnest(v_places, v_found) AS u (p, f);

        v_open := ARRAY(
            SELECT s.place
            FROM unnest(p_ids) WITH ORDINALITY AS s (id, place)
            WHERE s.place = ANY (v_open)
              AND s.id <> ALL (v_new)
              AND s.place <> ALL (coalesce(v_places, '{}'))
        );
        IF cardinality(v_open) = 0 THEN
            RETURN;
        END IF;
    END LOOP;

    RAISE EXCEPTION USING
        ERRCODE = 'serialization_failure',
        MESSAGE = 'executions of the same dedupe key keep finishing while it is invoked',
        HINT = 'Try again.';
END
$$
