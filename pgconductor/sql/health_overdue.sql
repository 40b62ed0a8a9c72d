-- Due for long, the first ten thousand of each queue: enough to name the tasks. Which queues there
-- are is told by the index, one after the other.
WITH RECURSIVE queue AS (
    SELECT min(e.queue) AS name FROM pgconductor.executions e WHERE e.state = 'available'
    UNION ALL
    SELECT (
        SELECT min(e.queue)
        FROM pgconductor.executions e
        WHERE e.state = 'available' AND e.queue > q.name
    )
    FROM queue q
    WHERE q.name IS NOT NULL
),
busy AS MATERIALIZED (
    SELECT DISTINCT e.queue
    FROM pgconductor.executions e
    WHERE e.claim_number > 0 AND e.state = 'running'
)
SELECT
    q.name AS queue,
    d.task_key,
    count(*) AS count,
    pgconductor.clock() - min(d.run_at) AS oldest,
    bool_or(t.key IS NOT NULL) AS declared,
    bool_or(b.queue IS NOT NULL) AS busy
FROM queue q
CROSS JOIN LATERAL (
    SELECT e.task_key, e.run_at
    FROM pgconductor.executions e
    WHERE e.state = 'available'
      AND e.queue = q.name
      AND e.run_at < pgconductor.clock() - CAST(:patience AS interval)
    LIMIT 10000
) AS d
LEFT JOIN pgconductor.tasks t ON t.key = d.task_key
LEFT JOIN busy b ON b.queue = q.name
GROUP BY q.name, d.task_key
ORDER BY oldest DESC
LIMIT 20
