-- For whoever makes the schema: two must not do so at once, and there is no row yet to lock. Known
-- to the guard of the first revision, too.
SELECT pg_try_advisory_xact_lock(6220117031880514301) AS taken
