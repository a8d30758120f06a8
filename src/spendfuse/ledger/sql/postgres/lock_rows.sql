-- Invariants 2, 4 and 6: all that a batch may touch, read under the lock.
SELECT * FROM lock_rows_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);
