-- Invariant 15: what was decided under the store's lock.
INSERT INTO breaker_state
    (breaker, subject, each_labels, phase, since_ms, tries_at_ms, closes_at_ms, probe_id, probe_until_ms, why, who)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    each_labels = excluded.each_labels, phase = excluded.phase, since_ms = excluded.since_ms,
    tries_at_ms = excluded.tries_at_ms, closes_at_ms = excluded.closes_at_ms, probe_id = excluded.probe_id,
    probe_until_ms = excluded.probe_until_ms, why = excluded.why, who = excluded.who;
