-- Invariant 8: a day without entries has no row.
DELETE FROM spend_day WHERE label = ? AND day_ms = ? AND value = ? AND requests = 0;
