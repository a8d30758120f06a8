-- Where a piece of so many entries ends that begins at an instant.
SELECT reserved_at_ms FROM entry
WHERE reserved_at_ms >= $1 AND reserved_at_ms < $2
ORDER BY reserved_at_ms LIMIT 1 OFFSET $3;
