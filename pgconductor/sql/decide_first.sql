-- Which of several was first, written only by the owner of the execution, as in record_step.sql, and
-- in the same commit the end of the waits that were not: they are as if they had never been. What
-- comes for them from now on changes nothing, and an event that one had taken may be taken again.
WITH fence AS MATERIALIZED (
    SELECT e.id
    FROM pgconductor.executions e
    WHERE e.id = CAST(:execution_id AS uuid)
      AND e.state = 'running'
      AND e.locked_by = CAST(:orchestrator_id AS uuid)
      AND e.claim_number = (SELECT CAST(:claim_number AS bigint))
    FOR SHARE OF e
),
made AS (
    INSERT INTO pgconductor.steps AS s (
        execution_id, key, kind, place, result, woke, turn, created_at, ended_at
    )
    SELECT
        f.id, CAST(:key AS text), 'first', CAST(:step_place AS integer),
        CAST(CAST(:result AS text) AS jsonb),
        CAST(:woke AS integer), CAST(:turn AS integer),
        -- It began before what it decides between, for whoever drops what began with it or after it.
        least(
            now.it - make_interval(secs => CAST(:took AS double precision)),
            (
                SELECT min(s.created_at)
                FROM pgconductor.steps s
                WHERE s.execution_id = f.id AND s.key = ANY (CAST(:begun AS text[]))
            )
        ),
        now.it
    FROM fence f
    CROSS JOIN (SELECT pgconductor.wall_clock() AS it) AS now
    ON CONFLICT (execution_id, key) DO NOTHING
    RETURNING s.execution_id, s.key, CAST(s.result AS text) AS result
),
lost AS (
    UPDATE pgconductor.steps s
    SET pending = false,
        result = NULL,
        error_type = '(lost)',
        error = m.key || ' was decided by another',
        event_id = NULL,
        ended_at = coalesce(s.ended_at, pgconductor.wall_clock())
    FROM made m
    WHERE s.execution_id = m.execution_id
      AND s.key = ANY (CAST(:lost AS text[]))
      AND s.kind IN ('try', 'sleep', 'child', 'event')
    RETURNING 1
)
SELECT m.result, (SELECT count(*) FROM lost) AS lost FROM made m
UNION ALL
SELECT CAST(s.result AS text), 0
FROM fence f
JOIN pgconductor.steps s ON s.execution_id = f.id AND s.key = CAST(:key AS text)
LIMIT 1
