-- running -> completed: what almost every outcome is, for one orchestrator. Each must prove its
-- owner (I1). What is not written comes back, for the statement of all outcomes (complete.sql) to
-- judge: a cancellation was asked for, an earlier report has written it, or the owner is another.
--
-- The ids come in order, so that whoever locks rows by id does not wait in a circle.
WITH outcome AS MATERIALIZED (
    SELECT o.id, o.claim_number, o.result
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:claim_numbers AS bigint[]), CAST(:results AS text[])
    ) AS o (id, claim_number, result)
),
changed AS (
    UPDATE pgconductor.executions e
    SET state = 'completed',
        result = CAST(o.result AS jsonb),
        locked_by = NULL,
        locked_at = NULL,
        claim_number = NULL,
        finished_at = (SELECT pgconductor.wall_clock()),
        finished_by = CAST(:orchestrator_id AS uuid),
        finished_claim = o.claim_number
    FROM outcome o
    WHERE e.id = o.id
      AND e.state = 'running'
      AND e.locked_by = CAST(:orchestrator_id AS uuid)
      AND e.claim_number = o.claim_number
      AND e.cancel_requested_at IS NULL
    RETURNING e.id, e.awaited
),
told AS MATERIALIZED (
    SELECT pgconductor.notify('pgconductor_finished', CAST(c.id AS text)) FROM changed c WHERE c.awaited
)
SELECT o.id
FROM outcome o
WHERE NOT EXISTS (SELECT 1 FROM changed c WHERE c.id = o.id)
  AND (SELECT count(*) FROM told) >= 0
