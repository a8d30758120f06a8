-- Invariant 2: an amount that beats the config's.
INSERT INTO override (limit_id, subject, amount) VALUES ($1, $2, $3)
ON CONFLICT (limit_id, subject) DO UPDATE SET amount = excluded.amount;
