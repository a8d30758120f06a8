-- Committed before anything is sent: should this process die now, it is tried once more when the claim's time is over.
UPDATE delivery SET attempts = attempts + 1, next_try_at_ms = :next_try_at_ms,
    first_try_at_ms = coalesce(first_try_at_ms, :now_ms)
WHERE alert_no = :number AND channel = :channel AND phase = :phase AND fate = 'pending';
