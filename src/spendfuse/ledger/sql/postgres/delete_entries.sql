-- Invariant 14: what retention deletes; triggers refuse whatever is not before the horizon.
DELETE FROM entry WHERE reserved_at_ms < $1;
