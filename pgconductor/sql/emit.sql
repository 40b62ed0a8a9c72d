-- Emit an event; see the function.
SELECT made.id, made.created
FROM pgconductor.emit_event(
    CAST(:name AS text), CAST(CAST(:payload AS text) AS jsonb), CAST(:dedupe_key AS text)
) AS made
