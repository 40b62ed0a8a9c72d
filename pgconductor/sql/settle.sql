-- End the waits whose time, child or event has come; see the function.
SELECT s.*, false AS pending, CAST(NULL AS integer) AS place, CAST(NULL AS interval) AS remaining,
    CAST(NULL AS integer) AS turn
FROM pgconductor.settle(
    CAST(:ids AS uuid[]), CAST(:seen AS integer[]), CAST(:until AS timestamptz)
) AS s
