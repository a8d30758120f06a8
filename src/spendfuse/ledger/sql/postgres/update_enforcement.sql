-- Invariant 3: a shadow balance has no ceiling; one that becomes enforced has at least what is committed.
UPDATE balance SET ceiling = CASE WHEN $2::boolean THEN greatest(amount, settled + reserved) END
WHERE limit_id = $1 AND (ends_at_ms IS NULL OR ends_at_ms > $3);
