-- Events that a step had taken which is gone may be taken by the waits that are left: they look
-- through all events once more.
UPDATE pgconductor.steps s
SET looked = false
WHERE s.execution_id = CAST(:id AS uuid) AND s.pending AND s.kind = 'event' AND s.looked
