-- Invariant 2: tells other processes that limits, overrides or keys changed.
UPDATE revision SET number = number + 1 WHERE what = ?;
