-- Counts whose window has passed.
DELETE FROM breaker_count WHERE until_ms <= $1;
