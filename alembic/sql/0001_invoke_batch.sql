-- Invoke many tasks from SQL; ids come back in the order of the specs, and specs of the same
-- dedupe key get the same id.
CREATE FUNCTION pgconductor.invoke_batch(
    specs pgconductor.execution_spec[],
    p_dedupe_scope text DEFAULT 'unfinished',
    p_dedupe_replace boolean DEFAULT false
) RETURNS TABLE (id uuid)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_unbuilt text;
BEGIN
    SELECT CASE
        WHEN s.dedupe_seconds IS NOT NULL THEN 'dedupe_seconds'
        WHEN s.dedupe_next_slot THEN 'dedupe_next_slot'
        ELSE 'cron_expression'
    END INTO v_unbuilt
    FROM unnest(specs) AS s
    WHERE s.dedupe_seconds IS NOT NULL OR s.dedupe_next_slot OR s.cron_expression IS NOT NULL
    LIMIT 1;
    IF v_unbuilt IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = format('%s is not supported by this version of pgconductor', v_unbuilt);
    END IF;

    IF coalesce(p_dedupe_scope, '') NOT IN ('unfinished', 'retained', 'unstarted') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('%L is no dedupe scope', p_dedupe_scope),
            HINT = 'Use ''unfinished'', ''retained'' or ''unstarted''.';
    END IF;
    IF p_dedupe_replace AND p_dedupe_scope <> 'unstarted' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'only what nobody has started can be replaced',
            HINT = 'Use the dedupe scope ''unstarted''.';
    END IF;

    RETURN QUERY
    SELECT made.id
    FROM (
        SELECT
            array_agg(pgconductor.uuidv7() ORDER BY s.place) AS ids,
            array_agg(s.task_key ORDER BY s.place) AS task_keys,
            array_agg(coalesce(s.queue, 'default') ORDER BY s.place) AS queues,
            array_agg(s.payload ORDER BY s.place) AS payloads,
            array_agg(s.run_at ORDER BY s.place) AS run_ats,
            array_agg(NULL::interval) AS delays,
            array_agg(coalesce(s.priority, 0) ORDER BY s.place) AS priorities,
            array_agg(s.dedupe_key ORDER BY s.place) AS dedupe_keys,
            array_agg(p_dedupe_scope) AS scopes,
            array_agg(coalesce(p_dedupe_replace, false)) AS replaces,
            array_agg(NULL::integer) AS limits
        FROM unnest(specs) WITH ORDINALITY AS s
            (task_key, queue, payload, run_at, dedupe_key, dedupe_seconds, dedupe_next_slot,
             cron_expression, priority, place)
        HAVING count(*) > 0
    ) AS a
    CROSS JOIN LATERAL pgconductor.invoke_executions(
        a.ids, a.task_keys, a.queues, a.payloads, a.run_ats, a.delays, a.priorities,
        a.dedupe_keys, a.scopes, a.replaces, a.limits, a.limits
    ) AS made
    ORDER BY made.place;
END
$$
