-- Invariant 6: no id above this one can be in the store, so that new ones need not be looked up.
SELECT max(
    coalesce((SELECT max(reservation_id) FROM reservation), 0),
    coalesce((SELECT max(reservation_id) FROM entry), 0)
);
