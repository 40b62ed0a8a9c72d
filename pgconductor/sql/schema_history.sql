-- What version table, ledger and gate say, for the comparison with the revisions at hand. The
-- tables are there: it was asked before.
SELECT
    ARRAY(SELECT CAST(v.version_num AS text) FROM pgconductor.pgconductor_version v) AS heads,
    (SELECT max(m.version) FROM pgconductor.schema_migrations m) AS recorded,
    (SELECT count(*) FROM pgconductor.schema_migrations m) AS entries,
    g.installed,
    g.floor
FROM pgconductor.schema_gate g
