-- Orchestrators that have to leave before a migration can go on, by what no revision changes.
SELECT
    o.id,
    o.version,
    o.schema_version,
    o.hostname,
    o.pid,
    CAST(extract(epoch FROM clock_timestamp() - o.last_heartbeat_at) AS double precision)
        AS silent_seconds
FROM pgconductor.orchestrators o
WHERE (
    CAST(:below_version AS integer) IS NULL OR o.schema_version < CAST(:below_version AS integer)
)
AND (
    CAST(:above_required AS integer) IS NULL OR o.schema_required > CAST(:above_required AS integer)
)
ORDER BY o.started_at, o.id
