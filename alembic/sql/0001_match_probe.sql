-- What a payload, or a match, has at paths that match_paths has found. Two that are alike there need
-- not match, but two that are not alike do not.
CREATE FUNCTION pgconductor.match_probe(p_payload jsonb, p_paths text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_agg(p_payload #> CAST(p.path AS text[]) ORDER BY p.place)
    FROM unnest(p_paths) WITH ORDINALITY AS p (path, place)
$$
