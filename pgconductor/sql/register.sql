-- The gate's row is read in share mode in the statement that inserts: a migration that changes it
-- either sees this orchestrator, or has this statement wait and then read what it wrote.
WITH gate AS MATERIALIZED (
    SELECT
        g.installed,
        g.floor,
        CASE WHEN g.intent_expires_at > pgconductor.wall_clock() THEN g.intent_floor END AS intent_floor,
        CASE WHEN g.intent_expires_at > pgconductor.wall_clock() THEN g.intent_ceiling END
            AS intent_ceiling
    FROM pgconductor.schema_gate g
    FOR SHARE OF g
)
INSERT INTO pgconductor.orchestrators AS o (
    id, version, schema_version, schema_required, hostname, pid, queues
)
SELECT
    CAST(:id AS uuid), CAST(:version AS text), CAST(:schema_version AS integer),
    CAST(:schema_required AS integer), CAST(:hostname AS text), CAST(:pid AS integer),
    CAST(:queues AS text[])
FROM gate
WHERE CAST(:schema_version AS integer) >= greatest(gate.floor, gate.intent_floor)
  AND CAST(:schema_required AS integer) <= least(gate.installed, gate.intent_ceiling)
RETURNING o.id
