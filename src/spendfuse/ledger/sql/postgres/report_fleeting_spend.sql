-- Invariant 8: spend by a fleeting label: whole days, and what is cut off of days at either end from the entries.
-- The dearest values each have a row; the others share the last one.
WITH sums AS MATERIALIZED (
    SELECT value, sum(calls)::bigint AS calls, sum(input_tokens)::bigint AS input_tokens,
        sum(output_tokens)::bigint AS output_tokens, sum(cost)::bigint AS cost, sum(estimated_cost)::bigint AS estimated_cost
    FROM (
        SELECT value, requests, calls, cost, input_tokens, output_tokens, estimated_cost
        FROM spend_day
        WHERE label = $1::text AND day_ms >= $2::bigint AND day_ms < $3::bigint
        UNION ALL
        SELECT '', requests, calls, cost, input_tokens, output_tokens, estimated_cost
        FROM spend_day
        WHERE label = '' AND day_ms >= $2::bigint AND day_ms < $3::bigint
        UNION ALL
        SELECT '', -sum(requests)::bigint, -sum(calls)::bigint, -sum(cost)::bigint,
            -sum(input_tokens)::bigint, -sum(output_tokens)::bigint, -sum(estimated_cost)::bigint
        FROM spend_day
        WHERE label = $1::text AND day_ms >= $2::bigint AND day_ms < $3::bigint
        UNION ALL
        SELECT coalesce((CASE fleeting WHEN '' THEN '{}' ELSE fleeting END)::json ->> $1::text, ''),
            requests, calls, cost, input_tokens, output_tokens, estimated_cost
        FROM unnest($4::bigint[], $5::bigint[]) AS span(from_ms, until_ms)
        CROSS JOIN LATERAL (
            SELECT fleeting, count(*) FILTER (WHERE is_late = 0) AS requests, sum(calls)::bigint AS calls,
                sum(cost)::bigint AS cost, sum(input_tokens)::bigint AS input_tokens,
                sum(output_tokens)::bigint AS output_tokens,
                sum(estimated_cost)::bigint AS estimated_cost
            FROM entry
            WHERE reserved_at_ms >= span.from_ms AND reserved_at_ms < span.until_ms
            GROUP BY fleeting
        ) AS part
    ) AS parts
    GROUP BY value
    HAVING sum(requests) > 0
),
dearest AS MATERIALIZED (
    SELECT value, calls, input_tokens, output_tokens, cost, estimated_cost
    FROM sums
    ORDER BY cost DESC, value COLLATE "C"
    LIMIT $6::bigint
),
others AS (
    SELECT coalesce(sum(calls), 0)::bigint - (SELECT coalesce(sum(calls), 0)::bigint FROM dearest) AS calls,
        coalesce(sum(input_tokens), 0)::bigint - (SELECT coalesce(sum(input_tokens), 0)::bigint FROM dearest) AS input_tokens,
        coalesce(sum(output_tokens), 0)::bigint - (SELECT coalesce(sum(output_tokens), 0)::bigint FROM dearest) AS output_tokens,
        coalesce(sum(cost), 0)::bigint - (SELECT coalesce(sum(cost), 0)::bigint FROM dearest) AS cost,
        coalesce(sum(estimated_cost), 0)::bigint - (SELECT coalesce(sum(estimated_cost), 0)::bigint FROM dearest) AS estimated_cost,
        count(*) - (SELECT count(*) FROM dearest) AS "values"
    FROM sums
)
SELECT value, calls, input_tokens, output_tokens, cost, estimated_cost, "values", place
FROM (
    SELECT value, calls, input_tokens, output_tokens, cost, estimated_cost, 1 AS "values", 0 AS place
    FROM dearest
    UNION ALL
    SELECT '', calls, input_tokens, output_tokens, cost, estimated_cost, "values", 1
    FROM others
    WHERE "values" > 0
) AS lines
ORDER BY place, cost DESC, value COLLATE "C";
