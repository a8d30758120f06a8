-- The amount that it was measured by has been raised, for all or for its subject.
UPDATE alert SET resolved_at_ms = :now_ms, resolution = 'raised', unrouted = unrouted | 2
WHERE resolved_at_ms IS NULL AND kind IN ('threshold', 'forecast') AND amount < (
    SELECT coalesce(o.amount, json_extract(l.definition, '$.amount'))
    FROM applied_limit l LEFT JOIN override o ON o.limit_id = l.limit_id AND o.subject = alert.subject
    WHERE l.identity = alert.about
);
