-- Invariant 16: an alert that is there already is not written again. Of two batches only the one that has locked the
-- balance, or target, that an alert is about can write it, so none waits for another here.
INSERT INTO alert
    (alert_id, kind, severity, about, subject, amount, ends_at_ms, facts, raised_at_ms, unrouted)
SELECT x.alert_id, x.kind, x.severity, x.about, x.subject, x.amount, x.ends_at_ms, x.facts, x.raised_at_ms, x.unrouted
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[],
    $10::bigint[]
) WITH ORDINALITY
    AS x(alert_id, kind, severity, about, subject, amount, ends_at_ms, facts, raised_at_ms, unrouted, place)
ORDER BY x.place
ON CONFLICT (alert_id) DO NOTHING RETURNING alert_no;
