-- Invariant 5: a reservation that has ended is no longer open.
DELETE FROM reservation WHERE reservation_id = $1;
