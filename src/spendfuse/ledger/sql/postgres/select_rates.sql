-- Invariant 4: one limit's rates that are not full.
SELECT subject, tat_ns FROM rate WHERE limit_id = $1 AND tat_ns > $2;
