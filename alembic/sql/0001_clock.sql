-- The time that every decision goes by. STABLE and without a SET clause, so that the planner
-- inlines it and an index condition can use it. Tests move it by the setting; no session can move
-- it for another.
CREATE FUNCTION pgconductor.clock() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT pg_catalog.now() + coalesce(
        nullif(pg_catalog.current_setting('pgconductor.clock_offset', true), '')::interval,
        interval '0'
    )
$$
