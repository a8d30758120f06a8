-- What is to be sent now, in the order in which it was raised; that an alert is over only once it was said that it is.
SELECT a.alert_no, a.alert_id, a.kind, a.severity, a.about, a.subject, a.amount, a.ends_at_ms, a.facts,
    a.raised_at_ms, a.resolved_at_ms, a.resolution, a.details,
    d.channel, d.phase, d.fate, d.attempts, d.next_try_at_ms, d.first_try_at_ms,
    d.ended_at_ms, d.error, d.is_lead
FROM delivery d JOIN alert a ON a.alert_no = d.alert_no
WHERE d.fate = 'pending' AND d.next_try_at_ms <= $1 AND (
    d.phase = 'raised' OR NOT EXISTS (
        SELECT 1 FROM delivery e
        WHERE e.alert_no = d.alert_no AND e.channel = d.channel AND e.phase = 'raised' AND e.fate = 'pending'
    )
)
ORDER BY d.alert_no, d.phase, d.channel LIMIT $2;
