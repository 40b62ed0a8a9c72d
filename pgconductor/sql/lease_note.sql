-- What the holder of the lease is about to do, and whom it keeps from registering meanwhile. No
-- row: another has taken the lease over.
UPDATE pgconductor.schema_gate g
SET lease_note = CAST(:note AS text),
    intent_floor = CAST(:floor AS integer),
    intent_ceiling = CAST(:ceiling AS integer),
    intent_expires_at =
        CASE
            WHEN CAST(:floor AS integer) IS NOT NULL OR CAST(:ceiling AS integer) IS NOT NULL
            THEN pgconductor.wall_clock() + CAST(:expires_after AS interval)
        END
WHERE g.lease_id = CAST(:lease_id AS uuid)
RETURNING g.installed
