-- In the order of the keys, so that orchestrators that start together never wait in a circle; and
-- nothing is written where nothing has changed.
INSERT INTO pgconductor.tasks AS t (
    key, queue, max_attempts, max_crashes, timeout, retain_completed, retain_failed
)
SELECT
    d.key, d.queue, d.max_attempts, d.max_crashes, d.timeout, d.retain_completed, d.retain_failed
FROM unnest(
    CAST(:keys AS text[]),
    CAST(:queues AS text[]),
    CAST(:max_attempts AS integer[]),
    CAST(:max_crashes AS integer[]),
    CAST(:timeouts AS interval[]),
    CAST(:retain_completed AS interval[]),
    CAST(:retain_failed AS interval[])
) AS d (key, queue, max_attempts, max_crashes, timeout, retain_completed, retain_failed)
ORDER BY d.key
ON CONFLICT (key) DO UPDATE
SET queue = excluded.queue,
    max_attempts = excluded.max_attempts,
    max_crashes = excluded.max_crashes,
    timeout = excluded.timeout,
    retain_completed = excluded.retain_completed,
    retain_failed = excluded.retain_failed,
    updated_at = pgconductor.clock()
WHERE (t.queue, t.max_attempts, t.max_crashes, t.timeout, t.retain_completed, t.retain_failed)
    IS DISTINCT FROM
    (
        excluded.queue, excluded.max_attempts, excluded.max_crashes, excluded.timeout,
        excluded.retain_completed, excluded.retain_failed
    )
