-- Invariant 4: whether a subject is new, read under the lock.
SELECT 1 FROM seen_subject WHERE each_labels = ? AND subject = ?;
