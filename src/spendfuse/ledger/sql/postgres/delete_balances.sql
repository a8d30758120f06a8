-- Invariant 8: the balances of a limit out of force would miss what is spent meanwhile; the fold reopens them.
DELETE FROM balance WHERE limit_id = $1;
