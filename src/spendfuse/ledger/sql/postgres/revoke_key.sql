-- Invariant 13: who may call no longer.
UPDATE client_key SET revoked_at_ms = $1 WHERE name = $2 AND revoked_at_ms IS NULL RETURNING key_id;
