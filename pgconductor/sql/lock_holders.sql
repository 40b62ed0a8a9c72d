-- Whose transactions hold locks on tables of ours, for the message of a revision that could not get
-- them; the oldest first.
SELECT
    a.pid,
    CAST(a.usename AS text) AS role,
    a.application_name,
    a.state,
    CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS double precision) AS seconds,
    left(a.query, 200) AS query,
    array_agg(DISTINCT CAST(c.relname AS text) ORDER BY CAST(c.relname AS text)) AS tables
FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE c.relnamespace = CAST('pgconductor' AS regnamespace)
  AND c.relkind = 'r'
  AND l.granted
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND a.pid <> pg_backend_pid()
GROUP BY a.pid, a.usename, a.application_name, a.state, a.xact_start, a.query
ORDER BY a.xact_start NULLS LAST, a.pid
LIMIT 10
