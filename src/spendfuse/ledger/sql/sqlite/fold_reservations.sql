-- Invariants 8 and 9: what open reservations of a window hold, by labels.
SELECT label_set_id, fleeting, count(*), 0, sum(cost), sum(input_tokens), sum(output_tokens), 0
FROM reservation
WHERE reserved_at_ms >= :from_ms AND reserved_at_ms < :until_ms
GROUP BY label_set_id, fleeting;
