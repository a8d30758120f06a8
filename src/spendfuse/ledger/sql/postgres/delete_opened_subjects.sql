-- Invariant 4 looks at no hour but the current one. Never waits for a batch.
DELETE FROM opened_subjects WHERE (key, hour_ms) IN (
    SELECT key, hour_ms FROM opened_subjects WHERE hour_ms < $1 FOR UPDATE SKIP LOCKED
);
