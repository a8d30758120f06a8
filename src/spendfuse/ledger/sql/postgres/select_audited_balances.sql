-- Invariant 8: all balances of the limits in force, but those that retention deletes.
SELECT limit_id, subject, window_no, starts_at_ms, ends_at_ms, settled, reserved, carried FROM balance
WHERE limit_id IN (SELECT limit_id FROM applied_limit WHERE active_since_ms IS NOT NULL)
    AND (ends_at_ms IS NULL OR starts_at_ms >= $1 OR ends_at_ms > $2)
ORDER BY limit_id, window_no, subject;
