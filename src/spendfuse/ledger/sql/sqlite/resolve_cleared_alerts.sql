-- The target's quotes are trusted again.
UPDATE alert SET resolved_at_ms = :now_ms, resolution = 'cleared', unrouted = unrouted | 2
WHERE resolved_at_ms IS NULL AND kind = 'overrun' AND about NOT IN (SELECT target FROM target_overrun);
