-- Invariant 2: back to the config's amount.
DELETE FROM override WHERE limit_id = $1 AND subject = $2;
