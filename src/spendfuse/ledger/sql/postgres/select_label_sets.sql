-- Invariant 8: the labels of everything that a fold or a report has grouped.
SELECT label_set_id, labels FROM label_set;
