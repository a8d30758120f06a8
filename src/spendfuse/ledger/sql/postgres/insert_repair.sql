-- Each correction is kept.
INSERT INTO repair (repaired_at_ms, what, limit_name, subject, starts_at_ms, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7);
