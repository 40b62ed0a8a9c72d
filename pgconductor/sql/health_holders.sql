-- What keeps vacuum from removing dead rows: old transactions of any database, for their catalogs
-- are shared; prepared ones; replication slots. Of other roles' sessions, who lacks pg_monitor sees
-- no more than that they are there.
SELECT
    'transaction' AS kind,
    CAST(a.pid AS text) AS name,
    nullif(a.application_name, '') AS application,
    a.state,
    clock_timestamp() - a.xact_start AS age,
    greatest(age(a.backend_xmin), age(a.backend_xid)) AS xmin_age
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid()
  AND a.backend_type = 'client backend'
  AND a.xact_start IS NOT NULL
UNION ALL
SELECT
    'prepared transaction', p.gid, p.owner, 'prepared', clock_timestamp() - p.prepared,
    age(p.transaction)
FROM pg_prepared_xacts p
UNION ALL
SELECT
    'replication slot', s.slot_name, s.plugin, CASE WHEN s.active THEN 'active' ELSE 'inactive' END,
    NULL, greatest(age(s.xmin), age(s.catalog_xmin))
FROM pg_replication_slots s
WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
