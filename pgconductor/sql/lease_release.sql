UPDATE pgconductor.schema_gate g
SET lease_id = NULL,
    lease_holder = NULL,
    lease_pid = NULL,
    lease_since = NULL,
    lease_note = NULL,
    intent_floor = NULL,
    intent_ceiling = NULL,
    intent_expires_at = NULL
WHERE g.lease_id = CAST(:lease_id AS uuid)
RETURNING g.installed
