-- Invariant 12: past their deadline; looked at again under the lock. What has its closing entry is not charged again;
-- the audit tells of it.
SELECT r.reservation_id, r.reserved_at_ms, r.cost, r.label_set_id, r.fleeting, l.labels
FROM reservation r JOIN label_set l ON l.label_set_id = r.label_set_id
WHERE r.deadline_ms <= coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    AND NOT EXISTS (SELECT FROM entry e WHERE e.reservation_id = r.reservation_id);
