-- Orchestrators that have to leave before a migration can go on, and what keeps them.
SELECT
    o.id,
    o.version,
    o.schema_version,
    o.hostname,
    o.pid,
    CAST(
        extract(epoch FROM pgconductor.wall_clock() - o.last_heartbeat_at) AS double precision
    ) AS silent_seconds,
    held.running,
    held.oldest_task,
    CAST(
        extract(epoch FROM pgconductor.wall_clock() - held.oldest_at) AS double precision
    ) AS oldest_seconds
FROM pgconductor.orchestrators o
CROSS JOIN LATERAL (
    SELECT
        count(*) AS running,
        min(e.locked_at) AS oldest_at,
        (array_agg(e.task_key ORDER BY e.locked_at, e.id))[1] AS oldest_task
    FROM pgconductor.executions e
    WHERE e.claim_number > 0 AND e.state = 'running' AND e.locked_by = o.id
) AS held
WHERE (
    CAST(:below_version AS integer) IS NULL OR o.schema_version < CAST(:below_version AS integer)
)
AND (
    CAST(:above_required AS integer) IS NULL OR o.schema_required > CAST(:above_required AS integer)
)
ORDER BY o.started_at, o.id
