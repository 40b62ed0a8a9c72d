-- What an observer reads of the others: see domain.orchestrators.StaleObserver.
SELECT
    o.id, o.heartbeat_number,
    o.last_heartbeat_at < pgconductor.wall_clock() - CAST(:stale_after AS interval) AS late
FROM pgconductor.orchestrators o
WHERE o.id IS DISTINCT FROM CAST(:observer AS uuid)
