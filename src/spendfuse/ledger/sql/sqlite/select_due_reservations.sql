-- Invariant 12: past their deadline. What has its closing entry is not charged again; the audit tells of it.
SELECT reservation_id, owner_id, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens, label_set_id,
    fleeting
FROM reservation
WHERE deadline_ms <= :now_ms
    AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.reservation_id = reservation.reservation_id);
