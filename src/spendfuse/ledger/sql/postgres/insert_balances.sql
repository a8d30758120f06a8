-- Invariant 8: the balances of a limit that comes into force, at the fold.
INSERT INTO balance
    (limit_id, subject, window_no, starts_at_ms, ends_at_ms, amount, ceiling, settled, reserved, overrun)
SELECT $1, x.subject, $2, $3, $4, x.amount, x.ceiling, x.settled, x.reserved, 0
FROM unnest($5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
    AS x(subject, amount, ceiling, settled, reserved);
