-- Invariant 8: equal labels have one number.
INSERT INTO label_set (labels) VALUES (?) RETURNING label_set_id;
