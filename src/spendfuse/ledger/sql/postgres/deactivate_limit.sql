-- Invariant 8: while a limit is out of force, nothing is counted under it.
UPDATE applied_limit SET active_since_ms = NULL WHERE limit_id = $1;
