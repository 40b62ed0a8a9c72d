-- Who holds the lease of migrations, and what its server process is doing. The last column says
-- whether the process is seen at all; what it does is hidden from roles that may not look.
SELECT
    g.lease_id,
    g.lease_holder,
    g.lease_pid,
    g.lease_since,
    g.lease_note,
    g.installed,
    a.application_name,
    a.state,
    a.state_change,
    a.pid IS NOT NULL AS alive
FROM pgconductor.schema_gate g
LEFT JOIN pg_stat_activity a
    ON a.pid = g.lease_pid
    AND a.application_name = concat('pgconductor-migrate/', g.lease_id)
