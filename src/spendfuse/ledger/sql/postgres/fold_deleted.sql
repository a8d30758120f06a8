-- Invariant 8: what entries that are about to be deleted add up to, by labels.
SELECT part.*, labels
FROM (
    SELECT label_set_id, fleeting, count(*) FILTER (WHERE is_late = 0), sum(calls)::bigint, sum(cost)::bigint,
        sum(input_tokens)::bigint, sum(output_tokens)::bigint, sum(estimated_cost)::bigint
    FROM entry
    WHERE reserved_at_ms >= $1 AND reserved_at_ms < $2
    GROUP BY label_set_id, fleeting
) AS part JOIN label_set USING (label_set_id);
