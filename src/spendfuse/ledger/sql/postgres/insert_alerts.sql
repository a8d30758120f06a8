-- Invariant 16: an alert that is there already is not written again. In the order of ids, so that two processes that
-- write the same ones wait for each other in one order.
INSERT INTO alert
    (alert_id, kind, severity, about, subject, amount, ends_at_ms, facts, raised_at_ms, unrouted)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[],
    $10::bigint[]
) AS x(alert_id, kind, severity, about, subject, amount, ends_at_ms, facts, raised_at_ms, unrouted)
ORDER BY x.alert_id
ON CONFLICT (alert_id) DO NOTHING RETURNING alert_no;
