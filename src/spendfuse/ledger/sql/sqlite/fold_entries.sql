-- Invariant 8: what entries of a window add up to, by labels. Late entries are corrections, not requests.
SELECT label_set_id, fleeting, sum(is_late = 0), sum(calls), sum(cost), sum(input_tokens), sum(output_tokens),
    sum(estimated_cost)
FROM entry
WHERE reserved_at_ms >= :from_ms AND reserved_at_ms < :until_ms
GROUP BY label_set_id, fleeting;
