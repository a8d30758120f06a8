-- Invariant 8: adds the entries of a piece to their days, under each of their labels and as a whole.
WITH piece AS MATERIALIZED (
    SELECT label_set_id, fleeting, reserved_at_ms / 86400000 * 86400000 AS day_ms,
        count(*) FILTER (WHERE is_late = 0) AS requests, sum(calls) AS calls, sum(cost) AS cost,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(estimated_cost) AS estimated_cost
    FROM entry
    WHERE reserved_at_ms >= $1 AND reserved_at_ms < $2
    GROUP BY label_set_id, fleeting, day_ms
)
INSERT INTO spend_day AS d (label, day_ms, value, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
SELECT label, day_ms, value, sum(requests), sum(calls), sum(cost), sum(input_tokens), sum(output_tokens),
    sum(estimated_cost)
FROM (
    SELECT '' AS label, day_ms, '' AS value, requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM piece
    UNION ALL
    SELECT one.key, day_ms, one.value, requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM piece JOIN label_set USING (label_set_id), json_each_text(labels::json) one
    UNION ALL
    SELECT one.key, day_ms, one.value, requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM piece, json_each_text((CASE fleeting WHEN '' THEN '{}' ELSE fleeting END)::json) one
    WHERE one.key <> 'fingerprint'
) part
GROUP BY label, day_ms, value
ON CONFLICT (label, day_ms, value) DO UPDATE SET
    requests = d.requests + excluded.requests, calls = d.calls + excluded.calls, cost = d.cost + excluded.cost,
    input_tokens = d.input_tokens + excluded.input_tokens, output_tokens = d.output_tokens + excluded.output_tokens,
    estimated_cost = d.estimated_cost + excluded.estimated_cost;
