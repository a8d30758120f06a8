-- Balances of windows that are over and whose entries retention deletes, a piece of them.
DELETE FROM balance
WHERE (limit_id, subject, window_no) IN (
    SELECT limit_id, subject, window_no FROM balance
    WHERE ends_at_ms IS NOT NULL AND starts_at_ms < ? AND ends_at_ms <= ? LIMIT ?
);
