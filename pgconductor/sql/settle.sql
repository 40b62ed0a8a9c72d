-- End the waits whose time, child or event has come; see the function.
SELECT s.*
FROM pgconductor.settle(CAST(:ids AS uuid[]), CAST(:seen AS integer[])) AS s
