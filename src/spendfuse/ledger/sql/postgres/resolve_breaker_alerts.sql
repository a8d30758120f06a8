-- The breaker has closed for this subject.
UPDATE alert SET resolved_at_ms = $1::bigint, resolution = 'closed', unrouted = unrouted | 2
WHERE resolved_at_ms IS NULL AND kind IN ('breaker', 'drift') AND about = $2 AND subject = $3;
