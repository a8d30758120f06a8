-- Invariants 3 and 8: moves a balance to its fold; its ceiling is never below what is committed, and what that
-- exceeds the former one by is overrun.
UPDATE balance SET
    settled = settled + :settled,
    reserved = reserved + :reserved,
    overrun = overrun + coalesce(max(0, settled + :settled + reserved + :reserved - ceiling), 0),
    ceiling = CASE WHEN ceiling IS NOT NULL THEN max(amount, settled + :settled + reserved + :reserved) END
WHERE limit_id = :limit_id AND subject = :subject AND window_no = :window_no
RETURNING settled, reserved;
