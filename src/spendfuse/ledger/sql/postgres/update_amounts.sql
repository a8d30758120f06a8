-- Invariant 3: a ceiling never falls below what is committed. Windows that are over keep their amount.
UPDATE balance b SET
    amount = $2,
    ceiling = CASE WHEN $3::boolean THEN greatest($2, b.settled + b.reserved) END
WHERE b.limit_id = $1
    AND (b.ends_at_ms IS NULL OR b.ends_at_ms > $5)
    AND CASE WHEN $4::text IS NULL
        THEN b.subject NOT IN (SELECT o.subject FROM override o WHERE o.limit_id = $1)
        ELSE b.subject = $4::text END;
