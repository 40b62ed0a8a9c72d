SELECT
    CAST(current_setting('server_version_num') AS integer) AS version,
    pg_is_in_recovery() AS standby,
    current_setting('default_transaction_read_only') = 'on' AS read_only,
    current_setting('fsync') = 'on' AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on' AS autovacuum,
    CAST(current_setting('max_connections') AS integer) AS max_connections,
    CAST(current_setting('superuser_reserved_connections') AS integer) AS reserved_connections,
    (
        SELECT CAST(coalesce(sum(d.numbackends), 0) AS integer) FROM pg_stat_database d
    ) AS connections
