-- Invariant 12: of an owner that is gone. Reads all open reservations, so it is asked for only when one has gone.
SELECT reservation_id, owner_id, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens, label_set_id,
    fleeting
FROM reservation
WHERE owner_id NOT IN (SELECT owner_id FROM owner)
    AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.reservation_id = reservation.reservation_id);
