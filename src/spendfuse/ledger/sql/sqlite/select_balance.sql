-- Invariant 2: read under the lock, before the decision.
SELECT amount, ceiling, settled, reserved, overrun FROM balance
WHERE limit_id = ? AND subject = ? AND window_no = ?;
