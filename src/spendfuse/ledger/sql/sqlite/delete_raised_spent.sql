-- A limit is no longer spent once its amount is raised: that of one subject, or of all that have no override.
DELETE FROM spent
WHERE limit_id = :limit_id AND amount < :amount
    AND CASE WHEN :subject IS NULL
        THEN subject NOT IN (SELECT subject FROM override WHERE override.limit_id = :limit_id)
        ELSE subject = :subject END
RETURNING limit_id;
