-- The paths through objects to the plain values of what a wait is to match, in order. An event whose
-- payload contains the match has these values at these paths: so events are looked up by them, where
-- there are many matches. What is in lists is not among them, nor is a match that is no object.
CREATE FUNCTION pgconductor.match_paths(p_match jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE part AS (
        SELECT CAST(ARRAY[] AS text[]) AS path, p_match AS value
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
$$
