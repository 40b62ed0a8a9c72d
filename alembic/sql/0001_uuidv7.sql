-- A UUID of version 7 (RFC 9562, section 5.7) for servers before 18: a random UUID whose first 48
-- bits are the time in milliseconds, and whose version bits are turned from 4 (0100) to 7 (0111).
CREATE FUNCTION pgconductor.uuidv7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT pg_catalog.encode(
        pg_catalog.set_bit(
            pg_catalog.set_bit(
                pg_catalog.overlay(
                    pg_catalog.uuid_send(pg_catalog.gen_random_uuid()),
                    pg_catalog.substring(
                        pg_catalog.int8send(
                            pg_catalog.floor(
                                extract(epoch FROM pg_catalog.clock_timestamp()) * 1000
                            )::bigint
                        ),
                        3
                    ),
                    1, 6
                ),
                52, 1
            ),
            53, 1
        ),
        'hex'
    )::uuid
$$
