-- One piece of a walk through the executions in the order of their ids, which is that of their
-- making: finished ones that are older than they are kept are removed, with their steps. There is
-- one walk for all orchestrators: its row is locked, and who finds it locked does nothing.
--
-- No index knows when an execution finished, so that none has to be kept up by whoever finishes one.
-- What is younger than the shortest time that anything is kept need not be looked at: a walk ends
-- there. An id may have been made by a clock that was wrong, or by no clock at all, so every 24th
-- walk goes on to the last.
--
-- No row if somebody else is at it, or the next walk is not due.
WITH walk AS MATERIALIZED (
    SELECT
        w.walks,
        coalesce(w.walked_to, '00000000-0000-0000-0000-000000000000') AS walked_to,
        coalesce(w.started_at, pgconductor.clock()) AS started_at
    FROM pgconductor.retention_walk w
    WHERE w.next_walk_at <= pgconductor.clock()
    FOR NO KEY UPDATE OF w SKIP LOCKED
),
policy AS MATERIALIZED (
    -- NULL is for ever, and least() passes it over; NULL altogether if everything is kept.
    SELECT least(
        CAST(:retain_completed AS interval),
        CAST(:retain_failed AS interval),
        (SELECT least(min(t.retain_completed), min(t.retain_failed)) FROM pgconductor.tasks t)
    ) AS shortest
),
bound AS MATERIALIZED (
    SELECT CASE
        WHEN p.shortest IS NULL THEN NULL
        WHEN w.walks % 24 = 0 THEN CAST('ffffffff-ffff-ffff-ffff-ffffffffffff' AS uuid)
        -- The first 48 bits of a UUID of version 7 are its time in milliseconds.
        ELSE CAST(
            rpad(
                lpad(
                    to_hex(
                        CAST(
                            extract(epoch FROM pgconductor.clock() - p.shortest) * 1000 AS bigint
                        )
                    ),
                    12, '0'
                ),
                32, '0'
            ) AS uuid
        )
    END AS id
    FROM walk w, policy p
),
seen AS MATERIALIZED (
    SELECT e.id, e.task_key, e.state, e.finished_at
    FROM pgconductor.executions e
    WHERE e.id > (SELECT w.walked_to FROM walk w)
      AND e.id <= (SELECT b.id FROM bound b)
    ORDER BY e.id
    LIMIT CAST(:limit AS integer)
),
expired AS MATERIALIZED (
    SELECT s.id, s.finished_at
    FROM seen s
    LEFT JOIN pgconductor.tasks t ON t.key = s.task_key
    WHERE s.finished_at < pgconductor.clock() - CASE
        WHEN t.key IS NULL AND s.state = 'completed' THEN CAST(:retain_completed AS interval)
        WHEN t.key IS NULL THEN CAST(:retain_failed AS interval)
        WHEN s.state = 'completed' THEN t.retain_completed
        ELSE t.retain_failed
    END
),
doomed AS MATERIALIZED (
    SELECT e.id
    FROM expired x
    JOIN pgconductor.executions e ON e.id = x.id
    -- As it was seen: an operator may have retried it since.
    WHERE e.finished_at = x.finished_at
      -- Its parent must be told of its end first.
      AND NOT (e.parent_key IS NOT NULL AND e.awaited)
    ORDER BY e.id
    FOR UPDATE OF e SKIP LOCKED
),
removed AS (
    DELETE FROM pgconductor.executions e USING doomed d WHERE e.id = d.id RETURNING e.id
),
done AS (
    SELECT
        (SELECT count(*) FROM seen) AS seen,
        (SELECT count(*) FROM seen) < CAST(:limit AS integer) AS ended,
        (SELECT s.id FROM seen s ORDER BY s.id DESC LIMIT 1) AS last
),
moved AS (
    UPDATE pgconductor.retention_walk r
    SET walks = w.walks + CAST(d.ended AS integer),
        walked_to = CASE WHEN NOT d.ended THEN d.last END,
        started_at = CASE WHEN NOT d.ended THEN w.started_at END,
        next_walk_at = CASE
            WHEN NOT d.ended THEN r.next_walk_at
            -- A walk that took long is followed by a rest of the same length. At most six hours: it may
            -- have stood still for a week, because no orchestrator was there.
            ELSE pgconductor.clock() + greatest(
                least(interval '1 hour', coalesce(p.shortest, interval '1 hour') / 12),
                least(interval '6 hours', pgconductor.clock() - w.started_at)
            )
        END
    FROM walk w, policy p, done d
    RETURNING d.seen, d.ended
)
SELECT m.seen, m.ended, (SELECT count(*) FROM removed) AS removed FROM moved m
