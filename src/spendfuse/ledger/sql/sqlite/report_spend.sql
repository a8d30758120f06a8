-- Invariant 8: spend by a label: whole days, quarters of an hour of days that are cut, and the entries of quarters that
-- are. Calls without the label are all calls less those with it.
-- The dearest values each have a row; the others share the last one.
WITH days AS MATERIALIZED (
    SELECT value, sum(requests) AS requests, sum(calls) AS calls, sum(cost) AS cost,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(estimated_cost) AS estimated_cost
    FROM spend_day
    WHERE label = :label AND day_ms >= :day_from_ms AND day_ms < :day_until_ms
    GROUP BY value
),
sums AS MATERIALIZED (
    SELECT value, sum(calls) AS calls, sum(input_tokens) AS input_tokens,
        sum(output_tokens) AS output_tokens, sum(cost) AS cost, sum(estimated_cost) AS estimated_cost
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
),
dearest AS MATERIALIZED (
    SELECT value, calls, input_tokens, output_tokens, cost, estimated_cost
    FROM sums
    ORDER BY cost DESC, value
    LIMIT :top
),
others AS (
    SELECT coalesce(sum(calls), 0) - (SELECT coalesce(sum(calls), 0) FROM dearest) AS calls,
        coalesce(sum(input_tokens), 0) - (SELECT coalesce(sum(input_tokens), 0) FROM dearest) AS input_tokens,
        coalesce(sum(output_tokens), 0) - (SELECT coalesce(sum(output_tokens), 0) FROM dearest) AS output_tokens,
        coalesce(sum(cost), 0) - (SELECT coalesce(sum(cost), 0) FROM dearest) AS cost,
        coalesce(sum(estimated_cost), 0) - (SELECT coalesce(sum(estimated_cost), 0) FROM dearest) AS estimated_cost,
        count(*) - (SELECT count(*) FROM dearest) AS "values"
    FROM sums
)
SELECT value, calls, input_tokens, output_tokens, cost, estimated_cost, 1 AS "values", 0 AS place
FROM dearest
UNION ALL
SELECT '', calls, input_tokens, output_tokens, cost, estimated_cost, "values", 1
FROM others
WHERE "values" > 0
ORDER BY place, cost DESC, value;
