-- The estimate: pages filled to nine tenths, and for each entry a line pointer of 4, a header of 8,
-- and the average widths of its columns; an expression counts as 8.
SELECT
    CAST(c.relname AS text) AS name,
    i.indisvalid AND i.indisready AS valid,
    pg_relation_size(c.oid) AS size,
    CASE
        WHEN w.width IS NOT NULL AND c.reltuples >= 0
        THEN CAST((ceil(c.reltuples * (12 + w.width) / (8152 * 0.9)) + 1) * 8192 AS bigint)
    END AS expected_bytes
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT sum(CASE WHEN k.attnum = 0 THEN 8 ELSE p.avg_width END) AS width
    FROM unnest(CAST(i.indkey AS smallint[])) AS k (attnum)
    LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
    LEFT JOIN pg_stats p
      ON p.schemaname = n.nspname AND p.tablename = t.relname AND p.attname = a.attname
) AS w ON true
WHERE n.nspname = 'pgconductor'
ORDER BY c.relname
