-- How full the queue of notifications is, and which transaction has been open for longest: of any
-- database, for the queue is shared. A session of another role shows neither, without pg_monitor.
SELECT
    pg_catalog.pg_notification_queue_usage() AS usage,
    a.pid,
    nullif(a.application_name, '') AS application,
    a.state,
    clock_timestamp() - a.xact_start AS age
FROM (SELECT 1) AS one
LEFT JOIN LATERAL (
    SELECT s.pid, s.application_name, s.state, s.xact_start
    FROM pg_stat_activity s
    WHERE s.pid <> pg_backend_pid()
      AND s.backend_type = 'client backend'
      AND s.xact_start IS NOT NULL
    ORDER BY s.xact_start, s.pid
    LIMIT 1
) AS a ON true
