-- An UPDATE, never an upsert: who was removed must not come back. The answer is made of levels,
-- which stay true until they are dealt with, so that a lost answer loses nothing.
UPDATE pgconductor.orchestrators o
SET last_heartbeat_at = pgconductor.wall_clock(),
    heartbeat_number = o.heartbeat_number + 1
FROM (
    SELECT
        greatest(
            g.floor, CASE WHEN g.intent_expires_at > pgconductor.wall_clock() THEN g.intent_floor END
        ) AS floor,
        least(
            g.installed, CASE WHEN g.intent_expires_at > pgconductor.wall_clock() THEN g.intent_ceiling END
        ) AS ceiling
    FROM (SELECT) AS always
    LEFT JOIN pgconductor.schema_gate g ON true
) AS gate
WHERE o.id = CAST(:id AS uuid)
RETURNING
    o.heartbeat_number,
    o.shutdown_requested_at IS NOT NULL AS shutdown_requested,
    o.shutdown_reason,
    coalesce(gate.floor, 0) AS schema_floor,
    coalesce(gate.ceiling, 0) AS schema_ceiling,
    ARRAY(
        SELECT e.id
        FROM pgconductor.executions e
        WHERE e.cancel_requested_at IS NOT NULL
          AND e.state = 'running'
          AND e.locked_by = CAST(:id AS uuid)
    ) AS cancellations
