-- How a try ended, or until when it has to wait, which leaves the last error as it is.
UPDATE delivery SET fate = $1, next_try_at_ms = $2, ended_at_ms = $3,
    error = CASE WHEN $4 = '' AND $1 = 'pending' THEN error ELSE $4 END, is_lead = $5
WHERE alert_no = $6 AND channel = $7 AND phase = $8 AND fate = 'pending';
