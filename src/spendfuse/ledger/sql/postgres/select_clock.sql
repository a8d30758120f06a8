-- Windows and deadlines go by the store's clock: nanoseconds since the epoch.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint;
