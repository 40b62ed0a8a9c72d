-- Ends the server process of a lease's holder that stands still, so that nothing it does later
-- arrives. Only if it still is the holder that was seen, and has done nothing since.
SELECT pg_terminate_backend(a.pid) AS ended
FROM pgconductor.schema_gate g
JOIN pg_stat_activity a
    ON a.pid = g.lease_pid
    AND a.application_name = concat('pgconductor-migrate/', g.lease_id)
WHERE g.lease_id = CAST(:lease_id AS uuid)
  AND a.state_change = CAST(:state_change AS timestamptz)
