-- Invariants 1 and 3: the table's checks refuse what the decision should never have allowed.
INSERT INTO balance
    (limit_id, subject, window_no, starts_at_ms, ends_at_ms, amount, ceiling, settled, reserved, overrun)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);
