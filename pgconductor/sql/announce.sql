-- Wake the workers of queues.
SELECT pg_notify('pgconductor_available', q.name)
FROM unnest(CAST(:queues AS text[])) AS q (name)
