-- Invariant 6: whose call ids a new owner's must differ from.
SELECT owner_id FROM owner;
