-- An execution and its descendants, generation after generation, to a bounded depth and number: of
-- each parent those first that have not finished.
WITH RECURSIVE relative AS (
    SELECT CAST(:id AS uuid) AS id, 0 AS depth
    UNION ALL
    SELECT c.id, r.depth + 1
    FROM relative r
    CROSS JOIN LATERAL (
        SELECT e.id
        FROM pgconductor.executions e
        WHERE e.parent_id = r.id
        ORDER BY e.finished_at IS NOT NULL, e.id
        LIMIT CAST(:limit AS integer)
    ) AS c
    WHERE r.depth < CAST(:depth AS integer)
),
shown AS MATERIALIZED (
    -- The first generations; there is no need to make the rest.
    SELECT r.id, r.depth FROM relative r LIMIT CAST(:limit AS integer)
)
SELECT
    e.id, e.parent_id, e.parent_key, e.task_key, e.queue, e.state, e.attempts, e.max_attempts,
    e.crashes, e.max_crashes, e.last_error_type, e.last_error, e.cancel_reason, e.created_at,
    e.finished_at,
    (
        SELECT count(*)
        FROM (
            SELECT 1
            FROM pgconductor.executions c
            WHERE c.parent_id = e.id
            LIMIT CAST(:limit AS integer) + 1
        ) AS counted
    ) AS children
FROM shown s
JOIN pgconductor.executions e ON e.id = s.id
ORDER BY s.depth, e.finished_at IS NOT NULL, e.id
