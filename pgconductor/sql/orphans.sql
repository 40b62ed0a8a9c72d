-- Owners without a row. None of our statements makes such a row; a failover or a hand may.
SELECT DISTINCT e.locked_by
FROM pgconductor.executions e
WHERE e.claim_number > 0
  AND e.state = 'running'
  AND NOT EXISTS (SELECT 1 FROM pgconductor.orchestrators o WHERE o.id = e.locked_by)
