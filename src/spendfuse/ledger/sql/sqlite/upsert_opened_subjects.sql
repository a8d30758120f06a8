-- Invariant 4: counted in the transaction that admits.
INSERT INTO opened_subjects (key, hour_ms, count) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET count = count + excluded.count;
