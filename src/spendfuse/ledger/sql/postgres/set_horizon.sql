-- Invariant 14: entries before the horizon may be deleted from now on.
UPDATE retention SET horizon_ms = $1 WHERE one;
