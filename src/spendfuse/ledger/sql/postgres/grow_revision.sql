-- Invariant 2: tells other processes what has changed.
UPDATE revision SET number = number + 1 WHERE what = $1;
