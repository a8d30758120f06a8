-- One process delivers at a time: the lease is had by its holder, or by anybody once it has ended.
UPDATE outbox SET holder = $2, lease_until_ms = $3
WHERE holder = $2 OR lease_until_ms <= $1
RETURNING limits_revision, overruns_revision, breaker_change_no;
