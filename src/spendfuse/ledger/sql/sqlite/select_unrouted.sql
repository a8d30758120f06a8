-- Alerts of which nobody has said yet which channels are told, the oldest first.
SELECT alert_no, alert_id, kind, severity, about, subject, amount, ends_at_ms, facts, raised_at_ms, resolved_at_ms,
    resolution, details, unrouted
FROM alert WHERE unrouted <> 0 ORDER BY alert_no LIMIT :max;
