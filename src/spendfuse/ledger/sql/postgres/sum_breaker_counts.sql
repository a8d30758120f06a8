-- The windows that breakers are judged by, in the order in which they were asked for.
SELECT s.calls::bigint, s.errors::bigint, s.timed::bigint, s.latency_ms::bigint, s.cost::bigint, s.output_tokens::bigint
FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY x(breaker, subject, from_ms, place)
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(c.calls), 0) AS calls, coalesce(sum(c.errors), 0) AS errors,
            coalesce(sum(c.timed), 0) AS timed, coalesce(sum(c.latency_ms), 0) AS latency_ms,
            coalesce(sum(c.cost), 0) AS cost, coalesce(sum(c.output_tokens), 0) AS output_tokens
        FROM breaker_count c
        WHERE c.breaker = x.breaker AND c.subject = x.subject AND c.bucket_ms >= x.from_ms
    ) s
ORDER BY x.place;
