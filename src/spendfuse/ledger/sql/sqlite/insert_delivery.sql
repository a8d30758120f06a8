-- One alert to one channel, due at once.
INSERT INTO delivery
    (alert_no, channel, phase, fate, attempts, next_try_at_ms, first_try_at_ms, ended_at_ms, error, is_lead)
VALUES (:number, :channel, :phase, 'pending', 0, :now_ms, NULL, NULL, '', 0)
ON CONFLICT (alert_no, channel, phase) DO NOTHING;
