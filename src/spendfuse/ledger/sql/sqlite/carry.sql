-- Invariant 8: a balance keeps what its entries have settled when they are deleted.
UPDATE balance SET carried = carried + ? WHERE limit_id = ? AND subject = ? AND window_no = ?;
