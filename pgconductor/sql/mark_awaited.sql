-- Somebody waits for the execution: its end will be notified. A fetch that was woken for it may
-- have passed it over because this locked it, so it is announced again.
WITH marked AS (
    UPDATE pgconductor.executions e
    SET awaited = true
    WHERE e.id = CAST(:id AS uuid)
      AND e.finished_at IS NULL
      AND NOT e.awaited
    RETURNING e.queue, e.state, e.run_at
)
SELECT pgconductor.notify('pgconductor_available', m.queue)
FROM marked m
WHERE m.state = 'available' AND m.run_at <= pgconductor.clock()
