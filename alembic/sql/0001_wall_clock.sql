-- The same clock, but of this very moment: a heartbeat must not age while it waits for a lock.
CREATE FUNCTION pgconductor.wall_clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT pg_catalog.clock_timestamp() + (pgconductor.clock() - pg_catalog.now())
$$
