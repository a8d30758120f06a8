-- Invariant 12: what a dead owner holds is due.
DELETE FROM owner
WHERE owner_id <> $1 AND lease_until_ms <= (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
