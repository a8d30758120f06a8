-- Where a piece of so many entries ends that begins at an instant.
SELECT reserved_at_ms FROM entry
WHERE reserved_at_ms >= ? AND reserved_at_ms < ?
ORDER BY reserved_at_ms LIMIT 1 OFFSET ?;
