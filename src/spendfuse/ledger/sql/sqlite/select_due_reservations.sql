-- Invariant 12: past their deadline, or of an owner that is gone.
SELECT reservation_id, owner_id, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens, label_set_id, fleeting
FROM reservation
WHERE deadline_ms <= :now_ms OR owner_id NOT IN (SELECT owner_id FROM owner)
ORDER BY reservation_id;
