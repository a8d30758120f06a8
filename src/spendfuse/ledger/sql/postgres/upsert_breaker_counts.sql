-- What attempts add up to, for all processes.
INSERT INTO breaker_count AS c
    (breaker, subject, bucket_ms, until_ms, calls, errors, timed, latency_ms, cost, output_tokens)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::bigint[])
ON CONFLICT (breaker, subject, bucket_ms) DO UPDATE SET
    until_ms = greatest(c.until_ms, excluded.until_ms),
    calls = c.calls + excluded.calls, errors = c.errors + excluded.errors, timed = c.timed + excluded.timed,
    latency_ms = c.latency_ms + excluded.latency_ms, cost = c.cost + excluded.cost,
    output_tokens = c.output_tokens + excluded.output_tokens;
