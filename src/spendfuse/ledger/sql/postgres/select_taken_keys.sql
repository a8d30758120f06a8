-- Invariant 13: the keys that stand in the way of a new one.
SELECT name, digest, revoked_at_ms FROM client_key WHERE digest = $2 OR (name = $1 AND revoked_at_ms IS NULL);
