-- Invariant 2: only the newest limits admit.
INSERT INTO config (hash, applied_at_ms) VALUES ($1, $2);
