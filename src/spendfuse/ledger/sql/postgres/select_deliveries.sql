-- Of alerts since an instant.
SELECT d.alert_no, d.channel, d.phase, d.fate, d.attempts, d.next_try_at_ms, d.first_try_at_ms,
    d.ended_at_ms, d.error, d.is_lead
FROM delivery d JOIN alert a ON a.alert_no = d.alert_no WHERE a.raised_at_ms >= $1
ORDER BY d.alert_no, d.phase, d.channel;
