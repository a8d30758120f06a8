-- Invariant 2: an amount that beats the config's.
INSERT INTO override (limit_id, subject, amount, until_ms) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET amount = excluded.amount, until_ms = excluded.until_ms;
