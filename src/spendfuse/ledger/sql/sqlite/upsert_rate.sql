-- Invariant 4: rates are read and written with the balances.
INSERT INTO rate (limit_id, subject, tat_ns) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET tat_ns = excluded.tat_ns;
