-- Invariant 8: spend by a label: whole days, quarters of an hour of days that are cut, and the entries of quarters that
-- are. Calls without the label are all calls less those with it.
WITH days AS MATERIALIZED (
    SELECT value, sum(requests) AS requests, sum(calls) AS calls, sum(cost) AS cost,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(estimated_cost) AS estimated_cost
    FROM spend_day
    WHERE label = :label AND day_ms >= :day_from_ms AND day_ms < :day_until_ms
    GROUP BY value
)
SELECT value, sum(calls), sum(input_tokens), sum(output_tokens), sum(cost), sum(estimated_cost)
FROM (
    SELECT value, requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM days
    UNION ALL
    SELECT '', requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM spend_day
    WHERE label = '' AND day_ms >= :day_from_ms AND day_ms < :day_until_ms
    UNION ALL
    SELECT '', -sum(requests), -sum(calls), -sum(cost), -sum(input_tokens),
        -sum(output_tokens), -sum(estimated_cost)
    FROM days
    UNION ALL
    SELECT coalesce(labels ->> ('$."' || :label || '"'), ''),
        requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM (
        SELECT label_set_id, sum(requests) AS requests, sum(calls) AS calls, sum(cost) AS cost,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(estimated_cost) AS estimated_cost
        FROM (SELECT value ->> 0 AS from_ms, value ->> 1 AS until_ms FROM json_each(:buckets)) AS span
        CROSS JOIN spend
        WHERE bucket_ms >= span.from_ms AND bucket_ms < span.until_ms
        GROUP BY label_set_id
    ) AS part CROSS JOIN label_set USING (label_set_id)
    UNION ALL
    SELECT coalesce(labels ->> ('$."' || :label || '"'), ''),
        requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM (
        SELECT label_set_id, sum(is_late = 0) AS requests, sum(calls) AS calls, sum(cost) AS cost,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(estimated_cost) AS estimated_cost
        FROM (SELECT value ->> 0 AS from_ms, value ->> 1 AS until_ms FROM json_each(:entries)) AS span
        CROSS JOIN entry
        WHERE reserved_at_ms >= span.from_ms AND reserved_at_ms < span.until_ms
        GROUP BY label_set_id
    ) AS part CROSS JOIN label_set USING (label_set_id)
) AS parts
GROUP BY value
HAVING sum(requests) > 0
ORDER BY sum(cost) DESC, value;
