-- Invariant 12: what a dead owner holds is due.
DELETE FROM owner WHERE owner_id = $1;
