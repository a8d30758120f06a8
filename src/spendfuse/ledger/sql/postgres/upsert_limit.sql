-- Invariant 8: a limit's identity has one number, so that editing its amount keeps its balances.
INSERT INTO applied_limit (identity, definition, active_since_ms) VALUES ($1, $2, $3)
ON CONFLICT (identity) DO UPDATE SET definition = excluded.definition, active_since_ms = excluded.active_since_ms
RETURNING limit_id;
