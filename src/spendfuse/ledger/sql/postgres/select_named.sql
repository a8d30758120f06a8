-- Invariants 5 and 9: whose reservations these are, open or ended; none of this ever changes.
SELECT n.reservation_id, n.reserved_at_ms, n.cost, n.label_set_id, n.fleeting, l.labels
FROM (
    SELECT reservation_id, reserved_at_ms, cost, label_set_id, fleeting FROM reservation
    WHERE reservation_id = ANY ($1::bigint[])
    UNION ALL
    SELECT reservation_id, reserved_at_ms, held_cost, label_set_id, fleeting FROM entry
    WHERE reservation_id = ANY ($1::bigint[]) AND is_late = 0
) n JOIN label_set l ON l.label_set_id = n.label_set_id;
