-- Invariant 2: an amount that beats the config's.
INSERT INTO override (limit_id, subject, amount) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET amount = excluded.amount;
