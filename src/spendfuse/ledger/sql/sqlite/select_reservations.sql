-- Invariants 5 and 6: which of these ids are open, read under the lock.
SELECT reservation_id, owner_id, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens, label_set_id, fleeting
FROM reservation
WHERE reservation_id IN (SELECT value FROM json_each(?));
