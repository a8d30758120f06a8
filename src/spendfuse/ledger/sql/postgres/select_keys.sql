-- Invariant 13: who may call.
SELECT name, digest, labels, labels_from, created_at_ms, revoked_at_ms FROM client_key ORDER BY key_id;
