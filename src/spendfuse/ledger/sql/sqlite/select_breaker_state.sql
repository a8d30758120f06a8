-- Invariant 15: under the store's lock, so that one probe is granted at a time.
SELECT phase, since_ms, tries_at_ms, closes_at_ms, probe_id, probe_until_ms, why, who
FROM breaker_state WHERE breaker = ? AND subject = ?;
