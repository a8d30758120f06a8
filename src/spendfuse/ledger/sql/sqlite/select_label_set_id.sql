-- Invariant 8: equal labels have one number.
SELECT label_set_id FROM label_set WHERE labels = ?;
