-- Waits until no fetch of this orchestrator is under way, and keeps it so until the commit.
SELECT o.id FROM pgconductor.orchestrators o WHERE o.id = CAST(:id AS uuid) FOR UPDATE OF o
