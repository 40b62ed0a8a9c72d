-- What there is to settle: executions whose waits may have ended, and the events that nobody has
-- looked at. It locks nothing, and what it finds may be settled twice: that does nothing. Events are
-- never looked for without anybody: they are marked when all who hope for them have been settled.
--
-- Events come in the order in which the waits for their name take them, after the last ones that
-- came: those that could not be marked must not hold up the others.
WITH timed AS (
    SELECT s.execution_id
    FROM pgconductor.steps s
    WHERE s.pending AND s.wake_at <= pgconductor.clock()
      AND s.execution_id <> ALL (CAST(:without AS uuid[]))
    ORDER BY s.wake_at
    LIMIT CAST(:limit AS integer)
),
told AS (
    -- Settling a parent is done with all of its children at once.
    SELECT DISTINCT c.parent_id AS execution_id
    FROM pgconductor.executions c
    WHERE c.parent_key IS NOT NULL AND c.awaited AND c.finished_at IS NOT NULL
      AND c.parent_id <> ALL (CAST(:without AS uuid[]))
    ORDER BY c.parent_id
    LIMIT CAST(:limit AS integer)
),
emitted AS MATERIALIZED (
    SELECT v.id, v.name, v.payload, v.emitted_at
    FROM pgconductor.events v
    WHERE NOT v.matched
      AND (v.name, v.emitted_at, v.id) > (
          CAST(:after_name AS text), CAST(:after_time AS timestamptz), CAST(:after_id AS uuid)
      )
    ORDER BY v.name, v.emitted_at, v.id
    LIMIT CAST(:limit AS integer)
),
hoped AS (
    SELECT s.execution_id
    FROM emitted v
    JOIN pgconductor.steps s
      ON s.pending AND s.kind = 'event' AND s.detail = v.name
     AND (s.match IS NULL OR v.payload @> s.match)
    JOIN pgconductor.executions e ON e.id = s.execution_id AND e.created_at <= v.emitted_at
)
SELECT
    ARRAY(
        SELECT t.execution_id FROM timed t
        UNION
        SELECT c.execution_id FROM told c
        UNION
        SELECT h.execution_id FROM hoped h
        ORDER BY 1
    ) AS execution_ids,
    ARRAY(SELECT v.id FROM emitted v) AS event_ids,
    (SELECT max(v.emitted_at) FROM emitted v) AS until,
    last.name AS last_name,
    last.emitted_at AS last_time,
    last.id AS last_id,
    (
        SELECT s.wake_at - pgconductor.clock()
        FROM pgconductor.steps s
        WHERE s.pending AND s.wake_at > pgconductor.clock()
        ORDER BY s.wake_at
        LIMIT 1
    ) AS next_in
FROM (SELECT) AS one
LEFT JOIN (
    SELECT v.name, v.emitted_at, v.id
    FROM emitted v
    ORDER BY v.name DESC, v.emitted_at DESC, v.id DESC
    LIMIT 1
) AS last ON true
