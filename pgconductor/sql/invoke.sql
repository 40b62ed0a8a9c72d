-- Any mixture: all the work is in the database's own function, as for those who invoke from SQL.
SELECT made.place, made.id, made.created
FROM pgconductor.invoke_executions(
    CAST(:ids AS uuid[]),
    CAST(:task_keys AS text[]),
    CAST(:queues AS text[]),
    CAST(CAST(:payloads AS text[]) AS jsonb[]),
    CAST(:run_ats AS timestamptz[]),
    CAST(:delays AS interval[]),
    CAST(:priorities AS integer[]),
    CAST(:dedupe_keys AS text[]),
    CAST(:dedupe_scopes AS text[]),
    CAST(:dedupe_replaces AS boolean[]),
    CAST(:max_attempts AS integer[]),
    CAST(:max_crashes AS integer[])
) AS made
ORDER BY made.place
