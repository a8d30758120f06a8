-- Invariant 8: what entries of a window add up to, by labels. Late entries are corrections, not requests.
SELECT label_set_id, fleeting, count(*) FILTER (WHERE is_late = 0), sum(calls)::bigint, sum(cost)::bigint,
    sum(input_tokens)::bigint, sum(output_tokens)::bigint, sum(estimated_cost)::bigint
FROM entry
WHERE reserved_at_ms >= $1 AND reserved_at_ms < $2
GROUP BY label_set_id, fleeting;
