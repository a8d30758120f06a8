-- The window that a breaker is judged by.
SELECT coalesce(sum(calls), 0), coalesce(sum(errors), 0), coalesce(sum(timed), 0), coalesce(sum(latency_ms), 0),
    coalesce(sum(cost), 0), coalesce(sum(output_tokens), 0)
FROM breaker_count WHERE breaker = ? AND subject = ? AND bucket_ms >= ?;
