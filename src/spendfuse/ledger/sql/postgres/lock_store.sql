-- Invariants 2 and 8: alone with the store, until the transaction ends.
SELECT pg_advisory_xact_lock(store_lock_1());
