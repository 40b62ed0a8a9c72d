SELECT pgconductor.clock() - w.next_walk_at AS late FROM pgconductor.retention_walk w
