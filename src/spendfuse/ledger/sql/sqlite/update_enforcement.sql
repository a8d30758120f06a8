-- Invariant 3: a shadow balance has no ceiling; one that becomes enforced has at least what is committed.
UPDATE balance SET ceiling = CASE WHEN :enforced THEN max(amount, settled + reserved) END
WHERE limit_id = :limit_id AND (ends_at_ms IS NULL OR ends_at_ms > :now_ms);
