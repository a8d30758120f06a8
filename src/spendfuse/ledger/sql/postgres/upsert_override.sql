-- Invariant 2: an amount that beats the config's.
INSERT INTO override (limit_id, subject, amount, until_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (limit_id, subject) DO UPDATE SET amount = excluded.amount, until_ms = excluded.until_ms;
