-- What every process keeps a copy of, and follows by the revision.
SELECT breaker, subject, each_labels, phase, since_ms, tries_at_ms, closes_at_ms, probe_id, probe_until_ms, why, who
FROM breaker_state ORDER BY breaker, subject;
