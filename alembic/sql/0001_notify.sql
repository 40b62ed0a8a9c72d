-- Notify, unless the server's queue of notifications is nearly full: it would be full at the commit,
-- and what is committed matters more than who hears of it at once. Whoever has not heard of
-- something finds it at the next poll.
--
-- The queue is one for all databases, and is let go of only when every session that listens has read
-- it: a transaction that is left open in one of them fills it. Asking takes half a microsecond. No
-- SET clause, so that the planner puts the expression in the place of the call.
CREATE FUNCTION pgconductor.notify(p_channel text, p_payload text) RETURNS void
LANGUAGE sql VOLATILE
AS $$
    SELECT CASE
        WHEN pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.<) 0.9
            THEN pg_catalog.pg_notify(p_channel, p_payload)
    END
$$
