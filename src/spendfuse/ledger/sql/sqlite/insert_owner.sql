-- Invariant 12: who to ask whether a reservation's owner lives.
INSERT INTO owner (started_at_ms, lease_until_ms, pid, host) VALUES (?, ?, ?, ?) RETURNING owner_id;
