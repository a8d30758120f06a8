-- Invariant 8: labels are what entries and balances have in common.
SELECT labels FROM label_set WHERE label_set_id = ?;
