-- The log of breakers: written in the transaction of the change.
INSERT INTO breaker_change (at_ms, breaker, subject, each_labels, from_phase, to_phase, why, who)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);
