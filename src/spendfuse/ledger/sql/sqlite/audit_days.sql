-- Invariant 8: days that differ from their entries, as far back as there are any.
-- What is rolled up, and how much it is too much.
WITH folded AS MATERIALIZED (
    SELECT label_set_id, fleeting, reserved_at_ms / 86400000 * 86400000 AS day_ms,
        sum(is_late = 0) AS requests, sum(calls) AS calls, sum(cost) AS cost,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(estimated_cost) AS estimated_cost
    FROM entry
    WHERE reserved_at_ms >= :horizon_ms AND reserved_at_ms < :until_ms
    GROUP BY label_set_id, fleeting, day_ms
)
SELECT day_ms, label, value,
    coalesce(sum(requests) FILTER (WHERE sign = 1), 0), coalesce(sum(calls) FILTER (WHERE sign = 1), 0),
    coalesce(sum(cost) FILTER (WHERE sign = 1), 0),
    coalesce(sum(input_tokens) FILTER (WHERE sign = 1), 0),
    coalesce(sum(output_tokens) FILTER (WHERE sign = 1), 0),
    coalesce(sum(estimated_cost) FILTER (WHERE sign = 1), 0),
    sum(sign * requests), sum(sign * calls), sum(sign * cost), sum(sign * input_tokens),
    sum(sign * output_tokens), sum(sign * estimated_cost)
FROM (
    SELECT 1 AS sign, label, day_ms, value,
        requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM spend_day
    WHERE day_ms >= :horizon_ms
    UNION ALL
    SELECT -1, '', day_ms, '',
        requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM folded
    UNION ALL
    SELECT -1, one.key, day_ms, one.value,
        requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM folded CROSS JOIN label_set USING (label_set_id), json_each(labels) AS one
    UNION ALL
    SELECT -1, one.key, day_ms, one.value,
        requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM folded, json_each(CASE fleeting WHEN '' THEN '{}' ELSE fleeting END) AS one
    WHERE one.key <> 'fingerprint'
) AS both_sides
GROUP BY label, day_ms, value
HAVING sum(sign * requests) <> 0 OR sum(sign * calls) <> 0 OR sum(sign * cost) <> 0 OR sum(sign * input_tokens) <> 0
    OR sum(sign * output_tokens) <> 0 OR sum(sign * estimated_cost) <> 0
ORDER BY day_ms, label, value;
