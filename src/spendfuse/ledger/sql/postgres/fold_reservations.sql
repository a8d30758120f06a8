-- Invariants 8 and 9: what open reservations of a window hold, by labels; those that have ended hold nothing.
SELECT label_set_id, fleeting, count(*), 0::bigint, sum(cost)::bigint, sum(input_tokens)::bigint,
    sum(output_tokens)::bigint, 0::bigint
FROM reservation r
WHERE reserved_at_ms >= $1 AND reserved_at_ms < $2
    AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.reservation_id = r.reservation_id)
GROUP BY label_set_id, fleeting;
