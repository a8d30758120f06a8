-- Invariant 4: a refusal writes no entry; it is only counted here.
INSERT INTO refusal (hour_ms, code, limit_name, feature, user, shadow, count) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET count = count + excluded.count;
