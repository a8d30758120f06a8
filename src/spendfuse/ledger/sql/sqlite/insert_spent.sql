-- A limit is spent once for each subject and window: the first refusal that says so counts.
INSERT INTO spent (limit_id, subject, window_no, ends_at_ms, amount, since_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING RETURNING limit_id;
