-- The limit that it is about is not in force any more.
UPDATE alert SET resolved_at_ms = :now_ms, resolution = 'gone', unrouted = unrouted | 2
WHERE resolved_at_ms IS NULL AND kind IN ('threshold', 'forecast') AND about NOT IN (
    SELECT identity FROM applied_limit WHERE active_since_ms IS NOT NULL
);
