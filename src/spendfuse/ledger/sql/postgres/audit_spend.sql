-- Invariant 8: quarters of an hour that differ from their entries, as far back as there are any.
-- What is rolled up, and how much it is too much.
SELECT bucket_ms, label_set_id, (SELECT labels FROM label_set l WHERE l.label_set_id = both_sides.label_set_id),
    coalesce(sum(requests) FILTER (WHERE sign = 1), 0)::bigint, coalesce(sum(calls) FILTER (WHERE sign = 1), 0)::bigint,
    coalesce(sum(cost) FILTER (WHERE sign = 1), 0)::bigint,
    coalesce(sum(input_tokens) FILTER (WHERE sign = 1), 0)::bigint,
    coalesce(sum(output_tokens) FILTER (WHERE sign = 1), 0)::bigint,
    coalesce(sum(estimated_cost) FILTER (WHERE sign = 1), 0)::bigint,
    sum(sign * requests)::bigint, sum(sign * calls)::bigint, sum(sign * cost)::bigint, sum(sign * input_tokens)::bigint,
    sum(sign * output_tokens)::bigint, sum(sign * estimated_cost)::bigint
FROM (
    SELECT 1 AS sign, bucket_ms, label_set_id, requests, calls, cost, input_tokens, output_tokens,
        estimated_cost
    FROM spend
    WHERE bucket_ms >= $1
    UNION ALL
    SELECT -1, reserved_at_ms / 900000 * 900000, label_set_id, (is_late = 0)::integer, calls, cost, input_tokens,
        output_tokens, estimated_cost
    FROM entry
    WHERE reserved_at_ms >= $1
) AS both_sides
GROUP BY bucket_ms, label_set_id
HAVING sum(sign * requests) <> 0 OR sum(sign * calls) <> 0 OR sum(sign * cost) <> 0 OR sum(sign * input_tokens) <> 0
    OR sum(sign * output_tokens) <> 0 OR sum(sign * estimated_cost) <> 0
ORDER BY bucket_ms, label_set_id;
