-- A level: it stays until the orchestrator has left. The notification only makes it look sooner.
-- Whoever is asked already is not written again, and is told again: a sweep comes every second.
WITH wanted AS (
    SELECT o.id, o.shutdown_requested_at
    FROM pgconductor.orchestrators o
    WHERE (CAST(:id AS uuid) IS NULL OR o.id = CAST(:id AS uuid))
      AND (
          CAST(:below_version AS integer) IS NULL
          OR o.schema_version < CAST(:below_version AS integer)
      )
      AND (
          CAST(:above_required AS integer) IS NULL
          OR o.schema_required > CAST(:above_required AS integer)
      )
),
asked AS (
    UPDATE pgconductor.orchestrators o
    SET shutdown_requested_at = coalesce(o.shutdown_requested_at, pgconductor.wall_clock()),
        shutdown_reason = coalesce(o.shutdown_reason, CAST(:reason AS text))
    FROM wanted w
    WHERE o.id = w.id AND w.shutdown_requested_at IS NULL
    RETURNING o.id
),
told AS MATERIALIZED (
    SELECT pgconductor.notify('pgconductor_control', CAST(w.id AS text)) FROM wanted w
)
SELECT w.id
FROM wanted w
WHERE (w.shutdown_requested_at IS NOT NULL OR w.id IN (SELECT a.id FROM asked a))
  AND (SELECT count(*) FROM told) >= 0
