-- Invariants 8 and 9: what open reservations of a window hold, by labels; those that have ended hold nothing.
SELECT label_set_id, fleeting, count(*), 0, sum(cost), sum(input_tokens), sum(output_tokens), 0
FROM reservation r
WHERE reserved_at_ms >= :from_ms AND reserved_at_ms < :until_ms
    AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.reservation_id = r.reservation_id)
GROUP BY label_set_id, fleeting;
