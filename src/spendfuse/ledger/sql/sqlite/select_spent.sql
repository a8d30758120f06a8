-- Limits that are spent now: in force, and in the window that has not turned yet.
SELECT definition, subject, amount, since_ms, ends_at_ms
FROM spent JOIN applied_limit USING (limit_id)
WHERE active_since_ms IS NOT NULL AND (ends_at_ms IS NULL OR ends_at_ms > ?)
ORDER BY limit_id, subject, window_no;
