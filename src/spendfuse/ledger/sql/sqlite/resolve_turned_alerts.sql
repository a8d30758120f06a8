-- What is over by its time. People are told of it where bit 2 is given: for the kinds that have an end worth telling.
UPDATE alert SET resolved_at_ms = :now_ms, resolution = 'turned',
    unrouted = unrouted | CASE WHEN kind IN ('threshold', 'forecast', 'breaker', 'overrun', 'drift') THEN 2 ELSE 0 END
WHERE resolved_at_ms IS NULL AND ends_at_ms <= :now_ms;
