-- Invariant 15: under the store's lock, so that one probe is granted at a time.
SELECT b.breaker, b.subject, phase, since_ms, tries_at_ms, closes_at_ms, probe_id, probe_until_ms, why, who
FROM unnest($1::text[], $2::text[]) x(breaker, subject) JOIN breaker_state b USING (breaker, subject);
