-- Invariant 3: a ceiling never falls below what is committed. Windows that are over keep their amount.
UPDATE balance SET
    amount = :amount,
    ceiling = CASE WHEN :enforced THEN max(:amount, settled + reserved) END
WHERE limit_id = :limit_id
    AND (ends_at_ms IS NULL OR ends_at_ms > :now_ms)
    AND CASE WHEN :subject IS NULL
        THEN subject NOT IN (SELECT subject FROM override WHERE override.limit_id = :limit_id)
        ELSE subject = :subject END;
