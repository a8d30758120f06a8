-- Invariant 12: no row, no lease.
UPDATE owner SET lease_until_ms = ? WHERE owner_id = ? RETURNING owner_id;
