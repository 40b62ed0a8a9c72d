-- Locks a stale orchestrator against fetches of its own and against other recoverers, and asks it
-- to stop, so that it holds nothing new while it is emptied in several batches. No row if it has
-- beaten since it was observed, or somebody else is at it.
UPDATE pgconductor.orchestrators o
SET shutdown_requested_at = coalesce(o.shutdown_requested_at, pgconductor.wall_clock()),
    shutdown_reason = coalesce(o.shutdown_reason, 'found stale')
FROM (
    SELECT s.id
    FROM pgconductor.orchestrators s
    WHERE s.id = CAST(:id AS uuid)
      AND s.heartbeat_number = CAST(:heartbeat_number AS bigint)
      AND s.last_heartbeat_at < pgconductor.wall_clock() - CAST(:stale_after AS interval)
    FOR UPDATE OF s SKIP LOCKED
) AS stale
WHERE o.id = stale.id
RETURNING o.id
