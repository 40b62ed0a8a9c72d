-- available -> running, for one owner.
--
-- The owner must be a committed, live row that is not asked to stop and that the gate lets work.
-- It is locked against removal until this commits, so that no execution is ever held by an
-- orchestrator that has just been removed (I2).
--
-- With fetch_after.sql in place of the condition on the queue, the scan of the index starts where
-- the fetch before has ended, past the entries of what it took: while some old transaction is open,
-- vacuum cannot remove them.
--
-- An execution that is one crash short of its limit is fetched alone: if it comes first, nothing
-- else is taken; if it does not, it is left for another time.
--
-- Fetches may commit without waiting for the disk. One that takes an execution which must not be
-- executed again after a crash (max_crashes = 1) waits, as the server does by default: were it
-- undone by a crash of the server, that execution would be fetched once more.
--
-- The payload is returned as text: one that cannot be decoded must not spoil the batch.
WITH owner AS MATERIALIZED (
    SELECT o.id
    FROM pgconductor.orchestrators o
    WHERE o.id = CAST(:orchestrator_id AS uuid)
      AND o.shutdown_requested_at IS NULL
      AND o.schema_version >= (SELECT g.floor FROM pgconductor.schema_gate g)
    FOR KEY SHARE OF o
),
picked AS MATERIALIZED (
    SELECT
        e.id,
        e.crashes > 0 AND e.crashes >= e.max_crashes - 1 AS suspect,
        e.max_crashes = 1 AS once
    FROM pgconductor.executions e
    WHERE EXISTS (SELECT 1 FROM owner)
      AND e.state = 'available'
      AND e.queue = CAST(:queue AS text)
      AND e.run_at <= pgconductor.clock()
      AND (
          CAST(:task_keys AS text[]) IS NULL
          OR e.task_key = ANY (CAST(:task_keys AS text[]))
      )
      AND e.attempts < e.max_attempts
      AND e.crashes < e.max_crashes
    ORDER BY e.queue, -e.priority, e.run_at, e.id
    LIMIT CAST(:limit AS integer)
    FOR NO KEY UPDATE OF e SKIP LOCKED
),
durable AS MATERIALIZED (
    SELECT set_config(
        'synchronous_commit',
        (SELECT s.reset_val FROM pg_catalog.pg_settings s WHERE s.name = 'synchronous_commit'),
        true
    )
    FROM picked p
    WHERE p.once
    LIMIT 1
),
first AS MATERIALIZED (
    SELECT p.id, p.suspect FROM picked p LIMIT 1
),
taken AS (
    UPDATE pgconductor.executions e
    SET state = 'running',
        locked_by = CAST(:orchestrator_id AS uuid),
        locked_at = (SELECT pgconductor.clock()),
        claim_number = CAST(:claim_number AS bigint),
        attempts = e.attempts + 1,
        -- From here on it does not count as unstarted, also if it is given back.
        dedupe_scope = CASE WHEN e.dedupe_scope IS NOT NULL THEN 'started' END
    FROM picked p, first f
    WHERE e.id = p.id
      AND CASE WHEN f.suspect THEN p.id = f.id ELSE NOT p.suspect END
    RETURNING
        e.id, e.task_key, CAST(e.payload AS text) AS payload, e.attempts, e.max_attempts,
        e.crashes, e.max_crashes, e.priority, e.run_at, e.created_at,
        CASE WHEN e.parent_key IS NOT NULL THEN e.parent_id END AS parent_id
)
SELECT
    t.id, t.task_key, t.payload, t.attempts, t.max_attempts,
    t.crashes, t.max_crashes, t.priority, t.run_at, t.created_at, t.parent_id
FROM taken t
WHERE (SELECT count(*) FROM durable) >= 0
ORDER BY -t.priority, t.run_at, t.id
