-- Invariant 4: how many new subjects a key has opened in this hour, read under the lock.
SELECT count FROM opened_subjects WHERE key = ? AND hour_ms = ?;
