-- The lease of migrations, taken if it is free, is the caller's already, or its holder's server
-- process has ended. A pid comes again, so the process must bear the lease in its name, too; that
-- every role may see. Nobody waits for the row: whoever finds it locked comes again.
UPDATE pgconductor.schema_gate g
SET lease_id = CAST(:lease_id AS uuid),
    lease_holder = CAST(:holder AS text),
    lease_pid = pg_backend_pid(),
    lease_since = clock_timestamp(),
    lease_note = NULL,
    -- Whoever has only connected again goes on keeping others out.
    intent_floor = CASE WHEN g.lease_id = CAST(:lease_id AS uuid) THEN g.intent_floor END,
    intent_ceiling = CASE WHEN g.lease_id = CAST(:lease_id AS uuid) THEN g.intent_ceiling END,
    intent_expires_at = CASE WHEN g.lease_id = CAST(:lease_id AS uuid) THEN g.intent_expires_at END
WHERE g.singleton = (
    SELECT f.singleton
    FROM pgconductor.schema_gate f
    WHERE f.lease_id IS NULL
       OR f.lease_id = CAST(:lease_id AS uuid)
       OR NOT EXISTS (
           SELECT FROM pg_stat_activity a
           WHERE a.pid = f.lease_pid
             AND a.application_name = concat('pgconductor-migrate/', f.lease_id)
       )
    FOR NO KEY UPDATE OF f SKIP LOCKED
)
RETURNING g.installed
