-- Invariant 12: whether an owner's lease is over, by the store's own clock.
SELECT EXISTS (
    SELECT FROM owner
    WHERE owner_id <> $1 AND lease_until_ms <= (extract(epoch FROM clock_timestamp()) * 1000)::bigint
);
