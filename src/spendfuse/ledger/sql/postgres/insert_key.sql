-- Invariant 13: who may call.
INSERT INTO client_key (name, digest, labels, labels_from, created_at_ms, revoked_at_ms) VALUES ($1, $2, $3, $4, $5, $6);
