-- Invariants 1 and 3: the table's checks refuse what the decision should never have allowed.
UPDATE balance SET settled = ?, reserved = ?, ceiling = ?, overrun = ?
WHERE limit_id = ? AND subject = ? AND window_no = ?;
