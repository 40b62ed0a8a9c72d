-- Executions that a batch of outcomes is about, of which some have a statement of their own: two
-- statements, each with its rows in order, would lock some of them out of order.
SELECT 1
FROM pgconductor.executions e
WHERE e.id = ANY (CAST(:ids AS uuid[])) AND e.state = 'running'
ORDER BY e.id
FOR NO KEY UPDATE OF e
