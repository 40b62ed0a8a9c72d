-- Events that a step had taken which is gone may be taken by the waits that are left: they look
-- through all events once more. They are told by ended_at as in settle.
UPDATE pgconductor.steps s
SET looked = false
WHERE s.execution_id = CAST(:id AS uuid) AND s.kind = 'event' AND s.ended_at IS NULL AND s.looked
