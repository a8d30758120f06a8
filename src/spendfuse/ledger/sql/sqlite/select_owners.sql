-- Invariant 12: who to ask whether a reservation's owner lives.
SELECT owner_id FROM owner;
