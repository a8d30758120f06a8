-- Invariant 4: all limits in force.
SELECT limit_id, definition, active_since_ms FROM applied_limit WHERE active_since_ms IS NOT NULL ORDER BY limit_id;
