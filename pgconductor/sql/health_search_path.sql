-- Where our schema can be named without its name: by this session, and by the settings of roles and
-- of this database. Whether an application's version table lies in it.
SELECT
    current_setting('search_path') AS own,
    pg_catalog.current_schema() = 'pgconductor' AS own_first,
    'pgconductor' = ANY (pg_catalog.current_schemas(false)) AS own_names,
    ARRAY(
        SELECT concat(
            CASE WHEN s.setrole = 0 THEN 'everybody' ELSE pg_catalog.pg_get_userbyid(s.setrole) END,
            CASE WHEN s.setdatabase = 0 THEN ', in all databases' END,
            ': ', substring(c.setting FROM 13)
        )
        FROM pg_catalog.pg_db_role_setting s
        CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
        WHERE c.setting LIKE 'search\_path=%'
          AND (s.setdatabase = 0 OR s.setdatabase = (
              SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()
          ))
          AND 'pgconductor' IN (
              SELECT btrim(part, ' "')
              FROM unnest(string_to_array(substring(c.setting FROM 13), ',')) AS parts (part)
          )
        ORDER BY 1
    ) AS named,
    EXISTS (
        SELECT FROM pg_catalog.pg_class c
        WHERE c.relnamespace = pg_catalog.to_regnamespace('pgconductor')
          AND c.relname = 'alembic_version'
    ) AS foreign_table
