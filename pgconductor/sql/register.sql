-- The gate's row is read in share mode in the statement that inserts: a migration that changes it
-- either sees this orchestrator, or has this statement wait and then read what it wrote.
WITH gate AS MATERIALIZED (
    SELECT g.installed, g.floor FROM pgconductor.schema_gate g FOR SHARE OF g
)
INSERT INTO pgconductor.orchestrators AS o (id, version, schema_version, hostname, pid)
SELECT
    CAST(:id AS uuid), CAST(:version AS text), CAST(:schema_version AS integer),
    CAST(:hostname AS text), CAST(:pid AS integer)
FROM gate
WHERE CAST(:schema_version AS integer) >= gate.floor
  AND gate.installed >= CAST(:required_revision AS integer)
RETURNING o.id
