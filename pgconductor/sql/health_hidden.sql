-- Sessions of others of which this role may not see what they do.
SELECT count(*) AS hidden
FROM pg_stat_activity a
WHERE a.query = '<insufficient privilege>'
