-- Invariant 8: moved in the transaction that adds the entries before it to their days.
UPDATE rolled_up SET until_ms = $1 WHERE one;
