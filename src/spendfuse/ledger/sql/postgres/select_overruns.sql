-- Invariant 3: every target whose quotes are multiplied.
SELECT target, percent, since_ms FROM target_overrun ORDER BY target;
