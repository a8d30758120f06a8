-- Invariant 16: an alert that is there already is not written again.
INSERT INTO alert
    (alert_id, kind, severity, about, subject, amount, ends_at_ms, facts, raised_at_ms, unrouted)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (alert_id) DO NOTHING RETURNING alert_no;
