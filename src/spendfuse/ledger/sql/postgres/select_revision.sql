-- Invariant 2: limits and overrides are read again once another process changed them.
SELECT number FROM revision WHERE what = $1;
