-- A rate that has refilled is equal to one never seen, so invariant 4 is not touched. Never waits for a batch.
DELETE FROM rate WHERE (limit_id, subject) IN (
    SELECT limit_id, subject FROM rate WHERE tat_ns <= $1 FOR UPDATE SKIP LOCKED
);
