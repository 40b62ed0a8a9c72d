-- All that waited for these events have been settled; those who come later look for themselves.
UPDATE pgconductor.events v
SET matched = true
WHERE v.id = ANY (CAST(:ids AS uuid[])) AND NOT v.matched
