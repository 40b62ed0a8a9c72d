-- Its row goes last: only when it holds nothing any more.
DELETE FROM pgconductor.orchestrators o
WHERE o.id = CAST(:id AS uuid)
  AND NOT EXISTS (
      SELECT 1
      FROM pgconductor.executions e
      WHERE e.claim_number > 0 AND e.state = 'running' AND e.locked_by = CAST(:id AS uuid)
  )
RETURNING o.id
