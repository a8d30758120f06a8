-- Invariant 8: a limit that comes back keeps its number and its overrides.
SELECT definition, active_since_ms FROM applied_limit WHERE identity = $1;
