-- Invariant 8: spend by a fleeting label: whole days, and what is cut off of days at either end from the entries.
SELECT value, sum(calls)::bigint, sum(input_tokens)::bigint, sum(output_tokens)::bigint, sum(cost)::bigint,
    sum(estimated_cost)::bigint
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
ORDER BY sum(cost) DESC, value COLLATE "C";
