-- Invariant 15: all states of one breaker, under the store's lock.
SELECT breaker, subject, phase, since_ms, tries_at_ms, closes_at_ms, probe_id, probe_until_ms, why, who
FROM breaker_state WHERE breaker = ?;
