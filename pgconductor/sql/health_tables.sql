-- The estimate: a page header of 24 bytes, and for each row a line pointer of 4, a header of 24, and
-- the columns' average widths. Columns that this role may not read have no statistics for it.
SELECT
    CAST(c.relname AS text) AS name,
    coalesce(s.n_live_tup, 0) AS live,
    coalesce(s.n_dead_tup, 0) AS dead,
    greatest(s.last_vacuum, s.last_autovacuum) AS last_vacuum,
    pg_relation_size(c.oid) AS size,
    CASE
        WHEN w.width IS NOT NULL AND c.reltuples >= 0
        THEN CAST(
            ceil(c.reltuples * (28 + w.width) / (8168 * coalesce(
                CAST(substring(array_to_string(c.reloptions, ',') FROM 'fillfactor=(\d+)') AS integer),
                100
            ) / 100.0)) * 8192 AS bigint
        )
    END AS expected_bytes,
    coalesce(c.reloptions, '{}') AS options
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
LEFT JOIN LATERAL (
    SELECT sum(p.avg_width * (1 - p.null_frac)) AS width
    FROM pg_stats p
    WHERE p.schemaname = n.nspname AND p.tablename = c.relname
) AS w ON true
WHERE n.nspname = 'pgconductor' AND c.relkind = 'r'
ORDER BY c.relname
