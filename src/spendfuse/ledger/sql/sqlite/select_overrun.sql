-- Invariant 3: what the quotes of a target are multiplied by, read under the lock.
SELECT target, percent, since_ms FROM target_overrun WHERE target = ?;
