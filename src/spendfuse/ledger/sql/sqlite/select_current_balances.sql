-- Invariant 9: one limit's balances in one window.
SELECT subject, amount, settled, reserved, ends_at_ms FROM balance
WHERE limit_id = ? AND window_no = ?
ORDER BY subject;
