-- How a try ended, or until when it has to wait, which leaves the last error as it is.
UPDATE delivery SET fate = :fate, next_try_at_ms = :next_try_at_ms, ended_at_ms = :ended_at_ms,
    error = CASE WHEN :error = '' AND :fate = 'pending' THEN error ELSE :error END, is_lead = :is_lead
WHERE alert_no = :number AND channel = :channel AND phase = :phase AND fate = 'pending';
