-- One execution, without a dedupe key: a bare insert, for what surrounds it costs as much again.
INSERT INTO pgconductor.executions AS e (
    id, task_key, queue, payload, run_at, priority, max_attempts, max_crashes
)
VALUES (
    CAST(:id AS uuid),
    CAST(:task_key AS text),
    CAST(:queue AS text),
    CAST(CAST(:payload AS text) AS jsonb),
    coalesce(
        CAST(:run_at AS timestamptz),
        pgconductor.clock() + coalesce(CAST(:delay AS interval), interval '0')
    ),
    CAST(CAST(:priority AS integer) AS smallint),
    coalesce(
        CAST(:max_attempts AS integer),
        (SELECT t.max_attempts FROM pgconductor.tasks t WHERE t.key = CAST(:task_key AS text)),
        3
    ),
    coalesce(
        CAST(:max_crashes AS integer),
        (SELECT t.max_crashes FROM pgconductor.tasks t WHERE t.key = CAST(:task_key AS text)),
        3
    )
)
RETURNING
    CASE
        WHEN CAST(:announce AS boolean) AND e.run_at <= pgconductor.clock()
            THEN pgconductor.notify('pgconductor_available', e.queue)
    END
