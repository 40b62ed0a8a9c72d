-- Events that were emitted longer ago than events are kept, the oldest first. Those that nobody has
-- looked at stay: an execution may wait for one.
WITH doomed AS MATERIALIZED (
    SELECT v.id
    FROM pgconductor.events v
    WHERE v.emitted_at < pgconductor.clock() - CAST(:retain AS interval)
      AND v.matched
    ORDER BY v.emitted_at
    LIMIT CAST(:limit AS integer)
    FOR UPDATE OF v SKIP LOCKED
),
removed AS (
    DELETE FROM pgconductor.events v WHERE v.id = ANY (ARRAY(SELECT d.id FROM doomed d)) RETURNING 1
)
SELECT count(*) AS removed FROM removed
