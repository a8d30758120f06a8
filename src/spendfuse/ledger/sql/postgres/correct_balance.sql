-- Invariants 3 and 8: moves a balance to its fold; its ceiling is never below what is committed, and what that
-- exceeds the former one by is overrun.
UPDATE balance SET
    settled = settled + $1,
    reserved = reserved + $2,
    overrun = overrun + coalesce(greatest(0, settled + $1 + reserved + $2 - ceiling), 0),
    ceiling = CASE WHEN ceiling IS NOT NULL THEN greatest(amount, settled + $1 + reserved + $2) END
WHERE limit_id = $3 AND subject = $4 AND window_no = $5
RETURNING settled, reserved;
