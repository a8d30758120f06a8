-- Invariants 1 to 9 and 14: all that a batch has decided, written at once.
SELECT write_rows_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);
