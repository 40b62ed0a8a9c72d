-- What is held and should not be. All of it is found through executions_held_idx.
WITH held AS MATERIALIZED (
    SELECT e.id, e.task_key, e.locked_by, e.locked_at, e.cancel_requested_at
    FROM pgconductor.executions e
    WHERE e.claim_number > 0 AND e.state = 'running'
),
judged AS (
    SELECT
        h.locked_at,
        h.cancel_requested_at,
        o.id IS NULL AS orphan,
        o.last_heartbeat_at,
        o.last_heartbeat_at < pgconductor.wall_clock() - CAST(:stale_after AS interval) AS stale,
        h.cancel_requested_at < pgconductor.wall_clock() - CAST(:patience AS interval) AS cancelling,
        h.locked_at + t.timeout < pgconductor.wall_clock() - CAST(:patience AS interval) AS overtime
    FROM held h
    LEFT JOIN pgconductor.orchestrators o ON o.id = h.locked_by
    LEFT JOIN pgconductor.tasks t ON t.key = h.task_key
)
SELECT
    (SELECT count(*) FROM pgconductor.orchestrators) AS orchestrators,
    count(*) FILTER (WHERE j.orphan) AS orphans,
    count(*) FILTER (WHERE j.stale) AS stale,
    max(pgconductor.wall_clock() - j.last_heartbeat_at) FILTER (WHERE j.stale) AS stale_age,
    count(*) FILTER (WHERE j.cancelling) AS cancelling,
    max(pgconductor.wall_clock() - j.cancel_requested_at) FILTER (WHERE j.cancelling)
        AS cancelling_age,
    count(*) FILTER (WHERE j.overtime) AS overtime,
    max(pgconductor.wall_clock() - j.locked_at) FILTER (WHERE j.overtime) AS overtime_age
FROM judged j
