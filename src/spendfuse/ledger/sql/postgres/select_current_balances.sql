-- Invariant 9: one limit's balances in one window.
SELECT subject, settled, reserved FROM balance WHERE limit_id = $1 AND window_no = $2;
