-- All that waited for these events have been settled; those who come later look for themselves. Not
-- so those that somebody hopes for whose execution was locked.
--
-- Events are found by their ids, and waits by their executions: conditions that a partial index
-- implies would have the planner go through all of it, which is long when much has been emitted.
UPDATE pgconductor.events v
SET matched = true
WHERE v.id = ANY (CAST(:ids AS uuid[])) AND CASE WHEN v.matched THEN false ELSE true END
  AND NOT EXISTS (
      SELECT 1
      FROM pgconductor.steps s
      JOIN pgconductor.executions e ON e.id = s.execution_id
      WHERE s.execution_id = ANY (CAST(:left AS uuid[]))
        AND s.kind = 'event' AND s.ended_at IS NULL AND s.detail = v.name
        AND (s.match IS NULL OR v.payload @> s.match)
        AND e.created_at <= v.emitted_at
  )
