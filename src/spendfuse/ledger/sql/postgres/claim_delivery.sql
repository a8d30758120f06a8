-- Committed before anything is sent: should this process die now, it is tried once more when the claim's time is over.
UPDATE delivery SET attempts = attempts + 1, next_try_at_ms = $1,
    first_try_at_ms = coalesce(first_try_at_ms, $2::bigint)
WHERE alert_no = $3 AND channel = $4 AND phase = $5 AND fate = 'pending';
