-- What makes up the schema, names and definitions as Postgres itself writes them. It writes them
-- without a schema's name where the search_path has it, so the path is set first: see the caller.
-- NOT NULL stands with the columns: older servers have no constraints of that kind.
SELECT 'table' AS kind, CAST(c.relname AS text) AS name, concat_ws(
        ', ',
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned' ELSE 'no table' END,
        CASE WHEN c.relpersistence <> 'p' THEN 'unlogged' END,
        CASE WHEN c.relrowsecurity THEN 'row security' END,
        CASE WHEN EXISTS (
            SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled <> 'O'
        ) THEN 'triggers disabled' END
    ) AS definition
FROM pg_catalog.pg_class c
WHERE c.relnamespace = pg_catalog.to_regnamespace('pgconductor')
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
UNION ALL
SELECT 'column', concat(c.relname, '.', a.attname), concat_ws(
        ' ',
        pg_catalog.format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation <> t.typcollation THEN concat('COLLATE ', l.collname) END,
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        CASE WHEN d.oid IS NOT NULL AND a.attgenerated = ''
            THEN concat('DEFAULT ', pg_catalog.pg_get_expr(d.adbin, d.adrelid)) END,
        CASE WHEN a.attidentity <> '' OR a.attgenerated <> '' THEN 'GENERATED' END
    )
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = pg_catalog.to_regnamespace('pgconductor')
  AND c.relkind IN ('r', 'p', 'c') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint', concat(c.relname, '.', k.conname), pg_catalog.pg_get_constraintdef(k.oid)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = pg_catalog.to_regnamespace('pgconductor') AND k.contype <> 'n'
UNION ALL
SELECT 'index', CAST(c.relname AS text), pg_catalog.pg_get_indexdef(i.indexrelid)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = pg_catalog.to_regnamespace('pgconductor')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
UNION ALL
SELECT 'trigger', concat(c.relname, '.', t.tgname), pg_catalog.pg_get_triggerdef(t.oid)
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = pg_catalog.to_regnamespace('pgconductor') AND NOT t.tgisinternal
UNION ALL
SELECT
    'function',
    concat(p.proname, '(', pg_catalog.pg_get_function_identity_arguments(p.oid), ')'),
    pg_catalog.encode(
        pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.pg_get_functiondef(p.oid), 'UTF8')),
        'hex'
    )
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgconductor') AND p.prokind IN ('f', 'p')
ORDER BY 1, 2
