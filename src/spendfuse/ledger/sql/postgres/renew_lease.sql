-- Invariant 12: no row, no lease.
UPDATE owner SET lease_until_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $1 WHERE owner_id = $2;
