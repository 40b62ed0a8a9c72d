-- Executions that differ in id and payload only, without dedupe keys.
--
-- The payloads are one text, a line each and an empty one for none: JSON needs no line break, and
-- the server splits a text faster than a driver encodes an array. A text without lines gives no
-- rows, which the ids fill up with NULL.
WITH made AS (
    INSERT INTO pgconductor.executions (
        id, task_key, queue, payload, run_at, priority, max_attempts, max_crashes
    )
    SELECT
        s.id,
        CAST(:task_key AS text),
        CAST(:queue AS text),
        CAST(s.payload AS jsonb),
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
    FROM ROWS FROM (
        unnest(CAST(:ids AS uuid[])),
        string_to_table(CAST(:payloads AS text), E'\n', '')
    ) AS s (id, payload)
)
-- Only what is due now wakes anybody.
SELECT pgconductor.notify('pgconductor_available', CAST(:queue AS text))
WHERE CAST(:announce AS boolean)
  AND coalesce(
      CAST(:run_at AS timestamptz),
      pgconductor.clock() + coalesce(CAST(:delay AS interval), interval '0')
  ) <= pgconductor.clock()
