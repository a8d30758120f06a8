-- Invariant 8: as for balances; a rate that comes back starts full.
DELETE FROM rate WHERE limit_id = $1;
