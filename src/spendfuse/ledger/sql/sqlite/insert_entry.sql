-- Invariants 5, 7 and 14: the key admits one closing and one late entry, and triggers refuse every change.
INSERT INTO entry
    (reservation_id, is_late, kind, reserved_at_ms, written_at_ms, label_set_id, fleeting, calls,
     cost, input_tokens, output_tokens, held_cost, held_input_tokens, held_output_tokens,
     is_estimated, estimated_cost, overrun_cost,
     cache_read_tokens, cache_write_tokens, cache_write_long_tokens, input_audio_tokens, cache_read_audio_tokens,
     output_audio_tokens, reasoning_tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);
