-- Emit an event; see the function.
SELECT pgconductor.emit_event(CAST(:name AS text), CAST(CAST(:payload AS text) AS jsonb)) AS id
