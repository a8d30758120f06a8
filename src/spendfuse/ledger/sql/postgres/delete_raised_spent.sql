-- A limit is no longer spent once its amount is raised: that of one subject, or of all that have no override.
DELETE FROM spent s
WHERE s.limit_id = $1 AND s.amount < $2
    AND CASE WHEN $3::text IS NULL
        THEN s.subject NOT IN (SELECT o.subject FROM override o WHERE o.limit_id = $1)
        ELSE s.subject = $3::text END
RETURNING s.limit_id;
