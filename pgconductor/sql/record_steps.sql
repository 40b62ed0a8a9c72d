-- Results of steps, of executions that one orchestrator holds: recorded together, in one commit.
-- Each must prove its owner (I1). The fence takes the executions' rows in share mode: a recovery
-- skips them until this commits. What is on record comes back for each: this result, or an earlier
-- one of the same key.
--
-- The rows are locked in the order of their ids, as completing does.
WITH step AS MATERIALIZED (
    SELECT s.*
    FROM unnest(
        CAST(:ids AS uuid[]),
        CAST(:claim_numbers AS bigint[]),
        CAST(:keys AS text[]),
        CAST(:kinds AS text[]),
        CAST(:step_places AS integer[]),
        CAST(:results AS text[]),
        CAST(:error_types AS text[]),
        CAST(:errors AS text[]),
        CAST(:tooks AS double precision[]),
        CAST(:wokes AS integer[]),
        CAST(:turns AS integer[])
    ) WITH ORDINALITY AS s (
        execution_id, claim_number, key, kind, step_place, result, error_type, error, took, woke,
        turn, place
    )
),
fence AS MATERIALIZED (
    SELECT e.id, e.claim_number
    FROM pgconductor.executions e
    WHERE e.id = ANY (CAST(:ids AS uuid[]))
      AND e.state = 'running'
      AND e.locked_by = CAST(:orchestrator_id AS uuid)
    ORDER BY e.id
    FOR SHARE OF e
),
made AS (
    INSERT INTO pgconductor.steps AS r (
        execution_id, key, kind, place, result, error_type, error, woke, turn, created_at, ended_at
    )
    SELECT
        s.execution_id, s.key, s.kind, s.step_place, CAST(s.result AS jsonb), s.error_type, s.error,
        s.woke, s.turn, now.it - make_interval(secs => s.took), now.it
    FROM step s
    JOIN fence f ON f.id = s.execution_id AND f.claim_number = s.claim_number
    CROSS JOIN (SELECT pgconductor.wall_clock() AS it) AS now
    ORDER BY s.execution_id, s.key
    ON CONFLICT (execution_id, key) DO NOTHING
    RETURNING r.execution_id, r.key, r.kind, CAST(r.result AS text) AS result, r.error_type, r.error
)
SELECT
    f.id IS NOT NULL AS held,
    m.key IS NOT NULL OR r.key IS NOT NULL AS recorded,
    coalesce(m.kind, r.kind) AS kind,
    CASE WHEN m.key IS NOT NULL THEN m.result ELSE CAST(r.result AS text) END AS result,
    coalesce(m.error_type, r.error_type) AS error_type,
    coalesce(m.error, r.error) AS error
FROM step s
LEFT JOIN fence f ON f.id = s.execution_id AND f.claim_number = s.claim_number
LEFT JOIN made m ON m.execution_id = s.execution_id AND m.key = s.key
LEFT JOIN pgconductor.steps r ON r.execution_id = s.execution_id AND r.key = s.key
ORDER BY s.place
