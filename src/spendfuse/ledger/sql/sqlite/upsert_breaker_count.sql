-- What attempts add up to, for all processes.
INSERT INTO breaker_count
    (breaker, subject, bucket_ms, until_ms, calls, errors, timed, latency_ms, cost, output_tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    until_ms = max(until_ms, excluded.until_ms),
    calls = calls + excluded.calls, errors = errors + excluded.errors, timed = timed + excluded.timed,
    latency_ms = latency_ms + excluded.latency_ms, cost = cost + excluded.cost,
    output_tokens = output_tokens + excluded.output_tokens;
