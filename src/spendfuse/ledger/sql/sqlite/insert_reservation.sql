-- Invariant 6: an id that is open already breaks the key, never holds twice.
INSERT INTO reservation
    (reservation_id, owner_id, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens, label_set_id, fleeting)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);
