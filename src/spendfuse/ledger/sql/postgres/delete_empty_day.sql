-- Invariant 8: a day without entries has no row.
DELETE FROM spend_day WHERE label = $1 AND day_ms = $2 AND value = $3 AND requests = 0;
