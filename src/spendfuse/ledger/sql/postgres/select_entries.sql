-- Invariants 5 and 6: how these ids have ended, the closing entry before the late one.
SELECT reservation_id, kind, cost, input_tokens, output_tokens, held_cost, held_input_tokens, held_output_tokens,
    is_estimated, overrun_cost, reserved_at_ms, label_set_id, fleeting
FROM entry WHERE reservation_id = ANY ($1::bigint[]) ORDER BY reservation_id, is_late;
