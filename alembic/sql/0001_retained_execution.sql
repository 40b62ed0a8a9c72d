-- The latest finished execution of a dedupe key that retention has kept, if there is one.
CREATE FUNCTION pgconductor.retained_execution(p_task_key text, p_queue text, p_dedupe_key text)
RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT e.id
    FROM pgconductor.executions e
    WHERE e.task_key = p_task_key
      AND e.queue = p_queue
      AND e.dedupe_key = p_dedupe_key
      AND e.dedupe_scope IS NULL
      AND e.finished_at IS NOT NULL
    ORDER BY e.finished_at DESC
    LIMIT 1
$$
