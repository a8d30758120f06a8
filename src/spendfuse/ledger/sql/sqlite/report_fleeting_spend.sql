-- Invariant 8: spend by a fleeting label: whole days, and what is cut off of days at either end from the entries.
SELECT value, sum(calls), sum(input_tokens), sum(output_tokens), sum(cost), sum(estimated_cost)
FROM (
    SELECT value, requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM spend_day
    WHERE label = :label AND day_ms >= :day_from_ms AND day_ms < :day_until_ms
    UNION ALL
    SELECT '', requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM spend_day
    WHERE label = '' AND day_ms >= :day_from_ms AND day_ms < :day_until_ms
    UNION ALL
    SELECT '', -sum(requests), -sum(calls), -sum(cost), -sum(input_tokens), -sum(output_tokens),
        -sum(estimated_cost)
    FROM spend_day
    WHERE label = :label AND day_ms >= :day_from_ms AND day_ms < :day_until_ms
    UNION ALL
    SELECT coalesce((CASE fleeting WHEN '' THEN '{}' ELSE fleeting END) ->> ('$."' || :label || '"'), ''),
        requests, calls, cost, input_tokens, output_tokens, estimated_cost
    FROM (
        SELECT fleeting, sum(is_late = 0) AS requests, sum(calls) AS calls, sum(cost) AS cost,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(estimated_cost) AS estimated_cost
        FROM (SELECT value ->> 0 AS from_ms, value ->> 1 AS until_ms FROM json_each(:entries)) AS span
        CROSS JOIN entry
        WHERE reserved_at_ms >= span.from_ms AND reserved_at_ms < span.until_ms
        GROUP BY fleeting
    ) AS part
) AS parts
GROUP BY value
HAVING sum(requests) > 0
ORDER BY sum(cost) DESC, value;
