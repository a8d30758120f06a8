-- One process delivers at a time: the lease is had by its holder, or by anybody once it has ended.
UPDATE outbox SET holder = :holder, lease_until_ms = :lease_until_ms
WHERE holder = :holder OR lease_until_ms <= :now_ms
RETURNING limits_revision, overruns_revision, breaker_change_no;
