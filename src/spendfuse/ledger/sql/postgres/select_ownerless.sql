-- Invariant 12: of an owner that is gone. Reads all open reservations, so it is asked for only when one has gone.
SELECT r.reservation_id, r.reserved_at_ms, r.cost, r.label_set_id, r.fleeting, l.labels
FROM reservation r JOIN label_set l ON l.label_set_id = r.label_set_id
WHERE NOT EXISTS (SELECT FROM owner o WHERE o.owner_id = r.owner_id)
    AND NOT EXISTS (SELECT FROM entry e WHERE e.reservation_id = r.reservation_id);
