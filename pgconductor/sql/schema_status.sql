SELECT g.installed, g.floor FROM pgconductor.schema_gate g
