-- Before the statement that registers, in its transaction: that one locks the table of orchestrators
-- as soon as it is parsed. Waiting for the gate with it, it would stand in the way of the revision
-- that it waits for.
SELECT g.singleton FROM pgconductor.schema_gate g FOR SHARE OF g
