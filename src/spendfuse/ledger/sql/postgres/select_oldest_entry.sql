-- Where the next piece of entries to be deleted begins.
SELECT reserved_at_ms FROM entry WHERE reserved_at_ms < $1 ORDER BY reserved_at_ms LIMIT 1;
