-- failed or cancelled -> available, by an operator: with all its attempts and crashes anew. Not
-- while an unfinished execution has its dedupe key; but one that was invoked with the scope
-- "unstarted" is nobody's rival, and counts as started from here on.
--
-- What it remembers is kept, but for the errors that it has ended by, and for children that have not
-- completed: these would only have it fail again. An error after which something began has been
-- dealt with: a handler that undoes goes on undoing. Tries begin anew. From scratch nothing is kept,
-- and from a step on neither that step nor what began with it or after it. What the handler itself
-- has begun is numbered, and compared by that; branches are by the clock.
WITH target AS MATERIALIZED (
    SELECT
        e.id, e.task_key, e.queue, e.dedupe_key, e.dedupe_scope,
        EXISTS (
            SELECT 1
            FROM pgconductor.steps s
            WHERE s.execution_id = e.parent_id AND s.key = e.parent_key
              AND s.pending AND s.child_id = e.id
        ) AS waited_for
    FROM pgconductor.executions e
    WHERE e.id = CAST(:id AS uuid) AND e.state IN ('failed', 'cancelled')
    FOR NO KEY UPDATE OF e
),
rival AS MATERIALIZED (
    SELECT 1
    FROM target t
    JOIN pgconductor.executions r
      ON r.task_key = t.task_key AND r.queue = t.queue AND r.dedupe_key = t.dedupe_key
     AND r.finished_at IS NULL AND r.dedupe_scope IS NULL
    WHERE t.dedupe_scope IS NULL
),
bound AS MATERIALIZED (
    SELECT k.created_at, k.place
    FROM target t
    JOIN pgconductor.steps k ON k.execution_id = t.id AND k.key = CAST(:from_step AS text)
),
unknown AS MATERIALIZED (
    SELECT 1
    FROM target t
    WHERE CAST(:from_step AS text) IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bound)
),
dropped AS (
    DELETE FROM pgconductor.steps s
    USING target t
    WHERE s.execution_id = t.id
      AND (
          CAST(:from_scratch AS boolean)
          OR s.kind = 'try'
          OR s.error IS NOT NULL AND NOT EXISTS (
              SELECT 1
              FROM pgconductor.steps r
              WHERE r.execution_id = s.execution_id
                AND coalesce(
                    r.place > s.place, r.created_at > coalesce(s.ended_at, s.created_at)
                )
                -- Nor has it been by a race that it was the first in.
                AND r.kind NOT IN ('try', 'first')
                -- What is dropped has dealt with nothing.
                AND NOT EXISTS (
                    SELECT 1
                    FROM bound b
                    WHERE coalesce(r.place >= b.place, r.created_at >= b.created_at)
                )
          )
          OR EXISTS (
              SELECT 1
              FROM bound b
              WHERE coalesce(s.place >= b.place, s.created_at >= b.created_at)
          )
          OR s.pending AND EXISTS (
              SELECT 1
              FROM pgconductor.executions c
              WHERE c.id = s.child_id AND c.state IN ('failed', 'cancelled')
          )
      )
      AND NOT EXISTS (SELECT 1 FROM rival)
      AND NOT EXISTS (SELECT 1 FROM unknown)
),
changed AS (
    UPDATE pgconductor.executions e
    SET state = 'available',
        run_at = pgconductor.clock(),
        attempts = 0,
        crashes = 0,
        dedupe_scope = CASE WHEN t.dedupe_scope IS NOT NULL THEN 'started' END,
        cancel_requested_at = NULL,
        cancel_reason = NULL,
        -- Its parent may wait for it still. If not, it goes its own way from here.
        awaited = t.waited_for,
        parent_key = CASE WHEN t.waited_for THEN e.parent_key END,
        finished_at = NULL,
        finished_by = NULL,
        finished_claim = NULL
    FROM target t
    WHERE e.id = t.id
      AND NOT EXISTS (SELECT 1 FROM rival)
      AND NOT EXISTS (SELECT 1 FROM unknown)
    RETURNING e.id, e.queue
),
told AS MATERIALIZED (
    SELECT pgconductor.notify('pgconductor_available', c.queue) FROM changed c
)
SELECT
    EXISTS (SELECT 1 FROM changed) AS changed,
    EXISTS (SELECT 1 FROM rival) AS rival,
    EXISTS (SELECT 1 FROM unknown) AS unknown,
    (SELECT count(*) FROM told) AS told
