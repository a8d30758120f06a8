-- Invariant 8: the same from the rollup, for windows of whole buckets and labels that are not fleeting.
SELECT label_set_id, '', sum(requests), sum(calls), sum(cost), sum(input_tokens), sum(output_tokens),
    sum(estimated_cost)
FROM spend
WHERE bucket_ms >= :from_ms AND bucket_ms < :until_ms
GROUP BY label_set_id;
