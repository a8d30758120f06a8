-- Invariant 12: who to ask whether a reservation's owner lives.
INSERT INTO owner (started_at_ms, lease_until_ms, pid, host)
SELECT now_ms, now_ms + $1, $2, $3
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms) c
RETURNING owner_id;
