-- A step's result, written only by the owner of its execution. The fence takes the execution's row
-- in share mode: a recovery skips it until this commits. Its own row comes back, or the one that
-- was there already; none if the writer is not the owner.
--
-- The claim number is a sub-select, whose value the planner does not know: a number that it knows
-- to be above zero would let it look through executions_held_idx, all of a claim for one of it.
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
        execution_id, key, place, result, woke, turn, created_at, ended_at
    )
    SELECT
        f.id, CAST(:key AS text), CAST(:step_place AS integer),
        CAST(CAST(:result AS text) AS jsonb),
        CAST(:woke AS integer), CAST(:turn AS integer),
        now.it - make_interval(secs => CAST(:took AS double precision)), now.it
    FROM fence f
    CROSS JOIN (SELECT pgconductor.wall_clock() AS it) AS now
    ON CONFLICT (execution_id, key) DO NOTHING
    RETURNING CAST(s.result AS text) AS result
)
SELECT m.result FROM made m
UNION ALL
SELECT CAST(s.result AS text)
FROM fence f
JOIN pgconductor.steps s ON s.execution_id = f.id AND s.key = CAST(:key AS text)
LIMIT 1
