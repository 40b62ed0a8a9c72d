-- Wake the workers of queues.
SELECT pgconductor.notify('pgconductor_available', q.name)
FROM unnest(CAST(:queues AS text[])) AS q (name)
