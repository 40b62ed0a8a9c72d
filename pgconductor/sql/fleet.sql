-- Every orchestrator, for how long it has been silent, and how many executions it holds: those are
-- found through executions_held_idx.
SELECT
    o.id, o.version, o.schema_version, o.schema_required, o.hostname, o.pid, o.queues,
    o.started_at, o.last_heartbeat_at, o.heartbeat_number,
    o.shutdown_requested_at, o.shutdown_reason,
    pgconductor.wall_clock() - o.last_heartbeat_at AS silent_for,
    (
        SELECT count(*)
        FROM pgconductor.executions e
        WHERE e.claim_number > 0 AND e.state = 'running' AND e.locked_by = o.id
    ) AS running
FROM pgconductor.orchestrators o
ORDER BY o.started_at, o.id
