-- A level: it stays until the orchestrator has left. The notification only makes it look sooner.
WITH asked AS (
    UPDATE pgconductor.orchestrators o
    SET shutdown_requested_at = coalesce(o.shutdown_requested_at, pgconductor.wall_clock()),
        shutdown_reason = coalesce(o.shutdown_reason, CAST(:reason AS text))
    WHERE (CAST(:id AS uuid) IS NULL OR o.id = CAST(:id AS uuid))
      AND (
          CAST(:below_version AS integer) IS NULL
          OR o.schema_version < CAST(:below_version AS integer)
      )
    RETURNING o.id
),
told AS MATERIALIZED (
    SELECT pg_notify('pgconductor_control', CAST(a.id AS text)) FROM asked a
)
SELECT a.id FROM asked a WHERE (SELECT count(*) FROM told) >= 0
