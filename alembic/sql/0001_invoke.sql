-- Invoke a task from SQL, from a trigger, or from a service in another language.
CREATE FUNCTION pgconductor.invoke(
    p_task_key text,
    p_queue text DEFAULT 'default',
    p_payload jsonb DEFAULT NULL,
    p_run_at timestamptz DEFAULT NULL,
    p_dedupe_key text DEFAULT NULL,
    p_dedupe_seconds integer DEFAULT NULL,
    p_dedupe_next_slot boolean DEFAULT false,
    p_cron_expression text DEFAULT NULL,
    p_priority integer DEFAULT NULL,
    p_dedupe_scope text DEFAULT 'unfinished',
    p_dedupe_replace boolean DEFAULT false
) RETURNS TABLE (id uuid)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT made.id
    FROM pgconductor.invoke_batch(ARRAY[
        ROW(
            p_task_key, p_queue, p_payload, p_run_at, p_dedupe_key, p_dedupe_seconds,
            p_dedupe_next_slot, p_cron_expression, p_priority
        )::pgconductor.execution_spec
    ], p_dedupe_scope, p_dedupe_replace) AS made
$$
