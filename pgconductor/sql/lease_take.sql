-- The lease of migrations, taken if it is free, is the caller's already, or its holder's server
-- process has ended. A pid comes again, the moment at which its process began does not; of the
-- processes of other roles that moment may be hidden, and then they count as there. Nobody waits
-- for the row: whoever finds it locked comes again.
UPDATE pgconductor.schema_gate g
SET lease_id = CAST(:lease_id AS uuid),
    lease_holder = CAST(:holder AS text),
    lease_pid = pg_backend_pid(),
    lease_backend_start = (
        SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()
    ),
    lease_since = clock_timestamp(),
    lease_note = NULL,
    intent_floor = NULL,
    intent_ceiling = NULL,
    intent_expires_at = NULL
WHERE g.singleton = (
    SELECT f.singleton
    FROM pgconductor.schema_gate f
    WHERE f.lease_id IS NULL
       OR f.lease_id = CAST(:lease_id AS uuid)
       OR NOT EXISTS (
           SELECT FROM pg_stat_activity a
           WHERE a.pid = f.lease_pid
             AND (a.backend_start = f.lease_backend_start OR a.backend_start IS NULL)
       )
    FOR NO KEY UPDATE OF f SKIP LOCKED
)
RETURNING g.installed
