-- A rate that has refilled is equal to one never seen, so invariant 4 is not touched.
DELETE FROM rate WHERE tat_ns <= ?;
