-- Invariant 12: past their deadline, or of an owner that is gone; looked at again under the lock.
SELECT r.reservation_id, r.reserved_at_ms, r.cost, r.label_set_id, r.fleeting, l.labels,
    NOT EXISTS (SELECT FROM owner o WHERE o.owner_id = r.owner_id)
FROM reservation r JOIN label_set l ON l.label_set_id = r.label_set_id
WHERE r.deadline_ms <= coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    OR NOT EXISTS (SELECT FROM owner o WHERE o.owner_id = r.owner_id);
