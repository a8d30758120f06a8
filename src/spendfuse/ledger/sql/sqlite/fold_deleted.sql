-- Invariant 8: what entries that are about to be deleted add up to, by labels.
SELECT part.*, labels
FROM (
    SELECT label_set_id, fleeting, sum(is_late = 0), sum(calls), sum(cost), sum(input_tokens), sum(output_tokens),
        sum(estimated_cost)
    FROM entry
    WHERE reserved_at_ms >= ? AND reserved_at_ms < ?
    GROUP BY label_set_id, fleeting
) AS part CROSS JOIN label_set USING (label_set_id);
