-- Alerts since an instant, the oldest first.
SELECT alert_no, alert_id, kind, severity, about, subject, amount, ends_at_ms, facts, raised_at_ms, resolved_at_ms,
    resolution, details
FROM alert WHERE raised_at_ms >= $1 ORDER BY alert_no;
