-- Invariant 2: whether some amount goes back to the config's, by the store's clock unless another is given.
SELECT EXISTS (
    SELECT FROM override WHERE until_ms <= coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
);
