-- Emit an event: executions that wait for it, now or later, take it once this has committed.
--
-- With a dedupe key that an event of the same name has, for as long as retention keeps that one,
-- nothing is emitted: its id comes back. One that is being emitted is waited for.
CREATE FUNCTION pgconductor.emit_event(
    p_name text,
    p_payload jsonb DEFAULT NULL,
    p_dedupe_key text DEFAULT NULL,
    OUT id uuid,
    OUT created boolean
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    id := pgconductor.uuidv7();
    created := true;
    IF p_name IS NULL OR p_name !~ '^[A-Za-z_][A-Za-z0-9_.:/-]*$' OR octet_length(p_name) > 128 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('%L cannot name an event', p_name),
            HINT = 'Use a letter or "_", then at most 127 of A-Z, a-z, 0-9, "_", ".", ":", "/" and "-".';
    END IF;
    IF p_dedupe_key IS NOT NULL THEN
        FOR v_try IN 1..101 LOOP
            INSERT INTO pgconductor.events (id, name, payload, dedupe_key)
            VALUES (emit_event.id, p_name, nullif(p_payload, 'null'), p_dedupe_key)
            ON CONFLICT (name, dedupe_key) WHERE dedupe_key IS NOT NULL DO NOTHING;
            EXIT WHEN FOUND;
            SELECT e.id, false INTO id, created
            FROM pgconductor.events e
            WHERE e.name = p_name AND e.dedupe_key = p_dedupe_key;
            IF FOUND THEN
                RETURN;
            END IF;
            -- Retention has removed it in between.
            id := pgconductor.uuidv7();
            created := true;
            IF v_try > 100 THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'serialization_failure',
                    MESSAGE = 'events of the same dedupe key keep being removed',
                    HINT = 'Try again.';
            END IF;
        END LOOP;
        PERFORM pgconductor.notify('pgconductor_waits', '');
        RETURN;
    END IF;
    INSERT INTO pgconductor.events (id, name, payload)
    VALUES (emit_event.id, p_name, nullif(p_payload, 'null'));
    PERFORM pgconductor.notify('pgconductor_waits', '');
END
$$
