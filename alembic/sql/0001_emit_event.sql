-- Emit an event: executions that wait for it, now or later, take it once this has committed.
CREATE FUNCTION pgconductor.emit_event(p_name text, p_payload jsonb DEFAULT NULL)
RETURNS uuid
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id constant uuid := pgconductor.uuidv7();
BEGIN
    IF p_name IS NULL OR p_name !~ '^[A-Za-z_][A-Za-z0-9_.:/-]*$' OR octet_length(p_name) > 128 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('%L cannot name an event', p_name),
            HINT = 'Use a letter or "_", then at most 127 of A-Z, a-z, 0-9, "_", ".", ":", "/" and "-".';
    END IF;
    INSERT INTO pgconductor.events (id, name, payload)
    VALUES (v_id, p_name, nullif(p_payload, 'null'));
    PERFORM pgconductor.notify('pgconductor_waits', '');
    RETURN v_id;
END
$$
