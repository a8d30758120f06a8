-- Invariant 8: all balances of the limits in force.
SELECT limit_id, subject, window_no, starts_at_ms, ends_at_ms, settled, reserved FROM balance
WHERE limit_id IN (SELECT limit_id FROM applied_limit WHERE active_since_ms IS NOT NULL)
ORDER BY limit_id, window_no, subject;
