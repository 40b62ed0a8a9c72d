-- Which waits of these executions take which events: each wait, in the order in which they began,
-- takes the first event since the invocation that matches and that no other wait of its execution
-- has taken.
--
-- That is the same as to go through the events in their order, and to give each to the first wait
-- that is left and that it matches: both sides are ranked alike by everybody, so that there is but
-- one such pairing. Waits of an execution with the same match form one line, of which only the head
-- is of interest; so the cost is that of finding out which lines an event is for.
--
-- A wait for which the events have been looked at (looked) has seen all that were committed until
-- then. It can take only events that nobody has looked at since, which are few. Others look through
-- all of their name since the invocation, once.
--
-- Where a name has many matches, events are not compared with each of them, but looked up by the
-- values that the matches ask for. A FULL JOIN is never made by comparing each with each, whatever
-- the planner expects; an inner join may be.
--
-- p_until bounds what is new: events up to then must be looked at. It is STABLE, so that it sees
-- what the statement sees that calls it; and it is said to return few rows, for these are looked up
-- by their keys, however many.
CREATE FUNCTION pgconductor.match_events(p_ids uuid[], p_until timestamptz)
RETURNS TABLE (execution_id uuid, key text, event_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    -- So many of those that nobody has looked at are looked at together, of each name.
    c_most constant integer := 5000;
    -- Up to so many matches of one name are compared one by one.
    c_few constant integer := 8;
    v_ids uuid[];
    v_keys text[];
    v_lines integer[];
    v_ranks integer[];
    v_totals integer[];
    v_heads integer[] := '{}';
    v_ends integer[] := '{}';
    v_got uuid[];
    v_event uuid;
    v_for integer[];
    v_line integer;
    v_best integer;
BEGIN
    -- The waits, line by line. Of those that have taken an event, only the number is of interest.
    SELECT
        array_agg(w.execution_id ORDER BY w.line, w.rank),
        array_agg(w.key ORDER BY w.line, w.rank),
        array_agg(w.line ORDER BY w.line, w.rank),
        array_agg(w.rank ORDER BY w.line, w.rank),
        array_agg(w.total ORDER BY w.line, w.rank)
    INTO v_ids, v_keys, v_lines, v_ranks, v_totals
    FROM (
        SELECT
            s.execution_id, s.key, s.pending,
            dense_rank() OVER (
                ORDER BY s.pending DESC, s.execution_id, s.detail, s.match NULLS FIRST
            ) AS line,
            row_number() OVER (ORDER BY s.created_at, s.ordinal, s.key) AS rank,
            -- How many events of a name its waits pass over or take, at most.
            count(*) OVER (PARTITION BY s.execution_id, s.detail) AS total
        FROM pgconductor.steps s
        WHERE s.execution_id = ANY (p_ids) AND s.kind = 'event'
          AND (s.pending OR s.event_id IS NOT NULL)
    ) AS w
    WHERE w.pending;

    FOR i IN 1 .. coalesce(cardinality(v_lines), 0) LOOP
        IF i = 1 OR v_lines[i] <> v_lines[i - 1] THEN
            v_heads[v_lines[i]] := i;
        END IF;
        v_ends[v_lines[i]] := i;
    END LOOP;
    IF v_lines IS NULL THEN
        RETURN;
    END IF;
    -- Most looks find nothing at all; to know that costs little.
    IF NOT EXISTS (
        SELECT 1
        FROM unnest(v_ids, v_keys) AS w (execution_id, key)
        JOIN pgconductor.steps s ON s.execution_id = w.execution_id AND s.key = w.key
        JOIN pgconductor.executions e ON e.id = s.execution_id
        -- No EXISTS, for which the planner may read all events instead of one.
        WHERE (
                SELECT true FROM pgconductor.events x WHERE x.name = s.detail AND NOT x.matched LIMIT 1
            )
           OR NOT s.looked AND (
                SELECT true
                FROM pgconductor.events x
                WHERE x.name = s.detail AND x.emitted_at >= e.created_at
                LIMIT 1
            )
    ) THEN
        RETURN;
    END IF;
    v_got := array_fill(CAST(NULL AS uuid), ARRAY[cardinality(v_lines)]);

    FOR v_event, v_for IN
        WITH line AS MATERIALIZED (
            SELECT
                w.line AS number, w.execution_id, w.total, s.detail AS name, s.match,
                e.created_at AS since, bool_and(s.looked) AS looked,
                -- The paths through objects to the plain values of the match, in order: an event
                -- that contains the match has the same values there. NULL without any.
                (
                    WITH RECURSIVE part AS (
                        SELECT CAST('{}' AS text[]) AS path, s.match AS value
                        UNION ALL
                        SELECT p.path || m.key, m.value
                        FROM part p
                        CROSS JOIN LATERAL jsonb_each(
                            CASE WHEN jsonb_typeof(p.value) = 'object' THEN p.value ELSE '{}' END
                        ) AS m
                    )
                    SELECT array_agg(CAST(p.path AS text) ORDER BY p.path)
                    FROM part p
                    WHERE p.path <> '{}' AND jsonb_typeof(p.value) NOT IN ('object', 'array')
                ) AS paths,
                count(*) OVER (PARTITION BY s.detail) > c_few AS many
            FROM unnest(v_ids, v_keys, v_lines, v_totals) AS w (execution_id, key, line, total)
            JOIN pgconductor.steps s ON s.execution_id = w.execution_id AND s.key = w.key
            JOIN pgconductor.executions e ON e.id = s.execution_id
            GROUP BY w.line, w.execution_id, w.total, s.detail, s.match, e.created_at
        ),
        -- Where one wait looks through everything, all of its name see what is new up to the end:
        -- it must not take what an older one has a claim to.
        named AS MATERIALIZED (
            SELECT
                l.name,
                min(l.since) FILTER (WHERE l.many AND l.paths IS NOT NULL) AS since,
                min(l.since) FILTER (WHERE l.many AND l.paths IS NOT NULL AND NOT l.looked) AS all_since,
                CASE
                    WHEN bool_and(l.looked) THEN greatest(
                        p_until,
                        (
                            SELECT max(x.emitted_at)
                            FROM (
                                SELECT x.emitted_at
                                FROM pgconductor.events x
                                WHERE x.name = l.name AND NOT x.matched
                                ORDER BY x.emitted_at, x.id
                                LIMIT c_most
                            ) AS x
                        )
                    )
                    ELSE 'infinity'
                END AS until
            FROM line l
            GROUP BY l.name
        ),
        singly AS (
            SELECT l.number, l.execution_id, v.id, v.emitted_at
            FROM line l
            CROSS JOIN LATERAL (
                SELECT x.id, x.emitted_at
                FROM pgconductor.events x
                WHERE NOT l.looked AND x.name = l.name AND x.emitted_at >= l.since
                  AND (l.match IS NULL OR x.payload @> l.match)
                ORDER BY x.emitted_at, x.id
                LIMIT l.total
            ) AS v
            WHERE NOT (l.many AND l.paths IS NOT NULL)
            UNION ALL
            SELECT l.number, l.execution_id, v.id, v.emitted_at
            FROM line l
            JOIN named n ON n.name = l.name
            CROSS JOIN LATERAL (
                SELECT x.id, x.emitted_at
                FROM pgconductor.events x
                WHERE l.looked AND x.name = l.name AND x.emitted_at >= l.since AND NOT x.matched
                  AND x.emitted_at <= n.until
                  AND (l.match IS NULL OR x.payload @> l.match)
                ORDER BY x.emitted_at, x.id
                LIMIT l.total
            ) AS v
            WHERE NOT (l.many AND l.paths IS NOT NULL)
        ),
        pool AS (
            SELECT n.name, x.id, x.emitted_at, x.payload
            FROM named n
            JOIN pgconductor.events x ON x.name = n.name AND x.emitted_at >= n.all_since
            UNION ALL
            SELECT n.name, x.id, x.emitted_at, x.payload
            FROM named n
            JOIN pgconductor.events x
              ON x.name = n.name AND NOT x.matched
             AND x.emitted_at >= n.since AND x.emitted_at <= n.until
             AND x.emitted_at < coalesce(n.all_since, 'infinity')
        ),
        shape AS (
            SELECT DISTINCT l.name, l.paths FROM line l WHERE l.many AND l.paths IS NOT NULL
        ),
        met AS MATERIALIZED (
            SELECT l.number, l.execution_id, l.match, l.since, q.id, q.emitted_at, q.payload
            FROM (
                SELECT
                    l.*,
                    (
                        SELECT jsonb_agg(l.match #> CAST(k.path AS text[]) ORDER BY k.place)
                        FROM unnest(l.paths) WITH ORDINALITY AS k (path, place)
                    ) AS probe
                FROM line l
                WHERE l.many AND l.paths IS NOT NULL
            ) AS l
            FULL JOIN (
                SELECT
                    p.*, f.paths,
                    (
                        SELECT jsonb_agg(p.payload #> CAST(k.path AS text[]) ORDER BY k.place)
                        FROM unnest(f.paths) WITH ORDINALITY AS k (path, place)
                    ) AS probe
                FROM pool p
                JOIN shape f ON f.name = p.name
            ) AS q ON q.name = l.name AND q.paths = l.paths AND q.probe = l.probe
        ),
        found AS (
            SELECT y.number, y.execution_id, y.id, y.emitted_at FROM singly y
            UNION ALL
            SELECT m.number, m.execution_id, m.id, m.emitted_at
            FROM met m
            WHERE m.number IS NOT NULL AND m.id IS NOT NULL
              AND m.emitted_at >= m.since AND m.payload @> m.match
            UNION ALL
            -- What has been taken by another wait of the execution.
            SELECT NULL, s.execution_id, s.event_id, NULL
            FROM pgconductor.steps s
            WHERE s.execution_id = ANY (p_ids) AND s.event_id IS NOT NULL
        )
        SELECT f.id, array_agg(f.number)
        FROM found f
        GROUP BY f.execution_id, f.id
        HAVING bool_and(f.number IS NOT NULL)
        ORDER BY max(f.emitted_at), f.id
    LOOP
        v_best := NULL;
        FOREACH v_line IN ARRAY v_for LOOP
            IF v_heads[v_line] <= v_ends[v_line]
                AND (v_best IS NULL OR v_ranks[v_heads[v_line]] < v_ranks[v_heads[v_best]])
            THEN
                v_best := v_line;
            END IF;
        END LOOP;
        IF v_best IS NOT NULL THEN
            v_got[v_heads[v_best]] := v_event;
            v_heads[v_best] := v_heads[v_best] + 1;
        END IF;
    END LOOP;

    RETURN QUERY
    SELECT g.execution_id, g.key, g.event_id
    FROM unnest(v_ids, v_keys, v_got) AS g (execution_id, key, event_id)
    WHERE g.event_id IS NOT NULL;
END
$$
