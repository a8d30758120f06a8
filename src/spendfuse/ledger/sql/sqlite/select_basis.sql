-- Invariant 8: corrections are differences, which hold while nobody has made others nor opened balances at their fold.
SELECT coalesce(max(repair_no), 0), (SELECT number FROM revision WHERE what = 'limits') FROM repair;
