-- Invariant 5: open reservations that have their closing entry.
SELECT reservation_id, r.reserved_at_ms, r.cost, r.input_tokens, r.output_tokens
FROM reservation r JOIN entry e USING (reservation_id)
WHERE e.is_late = 0
ORDER BY reservation_id;
