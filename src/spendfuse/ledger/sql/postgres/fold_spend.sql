-- Invariant 8: the same from the rollup, for windows of whole buckets and labels that are not fleeting.
SELECT label_set_id, '', sum(requests)::bigint, sum(calls)::bigint, sum(cost)::bigint, sum(input_tokens)::bigint,
    sum(output_tokens)::bigint, sum(estimated_cost)::bigint
FROM spend
WHERE bucket_ms >= $1 AND bucket_ms < $2
GROUP BY label_set_id;
