-- How a try ended, or until when it has to wait.
UPDATE delivery SET fate = :fate, next_try_at_ms = :next_try_at_ms, ended_at_ms = :ended_at_ms,
    error = :error, is_lead = :is_lead
WHERE alert_no = :number AND channel = :channel AND phase = :phase AND fate = 'pending';
