-- Changes of breakers that no alert was made of yet.
SELECT change_no, at_ms, breaker, subject, each_labels, from_phase, to_phase, why, who
FROM breaker_change WHERE change_no > :after_no ORDER BY change_no LIMIT :max;
