-- What must be known before a migration. Only catalogs are read: they answer every role, and tell a
-- schema that is not there from one that the role may not look into.
SELECT
    pg_is_in_recovery() AS in_recovery,
    current_setting('transaction_read_only') = 'on' AS read_only,
    CAST(current_user AS text) AS role,
    CAST(current_database() AS text) AS database,
    n.oid IS NOT NULL AS has_schema,
    coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS may_use,
    coalesce(
        has_schema_privilege(n.oid, 'CREATE'), has_database_privilege(current_database(), 'CREATE')
    ) AS may_create,
    EXISTS (
        SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'pgconductor_version'
    ) AS has_version_table,
    EXISTS (
        SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'schema_gate'
    ) AS has_gate,
    ARRAY(
        SELECT CAST(c.relname AS text)
        FROM pg_class c
        WHERE c.relnamespace = n.oid
          AND c.relkind IN ('r', 'p')
          AND NOT pg_has_role(c.relowner, 'USAGE')
        ORDER BY 1
    ) AS not_owned,
    pg_backend_pid() AS backend_pid
FROM (SELECT) AS always
LEFT JOIN pg_namespace n ON n.nspname = 'pgconductor'
