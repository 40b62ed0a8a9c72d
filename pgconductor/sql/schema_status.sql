SELECT
    g.installed,
    g.floor,
    CASE WHEN g.intent_expires_at > pgconductor.wall_clock() THEN g.intent_floor END AS intent_floor,
    CASE WHEN g.intent_expires_at > pgconductor.wall_clock() THEN g.intent_ceiling END AS intent_ceiling,
    g.lease_holder
FROM pgconductor.schema_gate g
