INSERT INTO pgconductor.queues (name)
SELECT d.name FROM unnest(CAST(:names AS text[])) AS d (name)
ORDER BY d.name
ON CONFLICT (name) DO NOTHING
