-- Invariant 4: rates are read and written with the balances.
SELECT tat_ns FROM rate WHERE limit_id = ? AND subject = ?;
