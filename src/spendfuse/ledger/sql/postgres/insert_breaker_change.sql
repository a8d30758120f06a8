-- The log of breakers: written in the transaction of the change.
INSERT INTO breaker_change (at_ms, breaker, subject, each_labels, from_phase, to_phase, why, who)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);
