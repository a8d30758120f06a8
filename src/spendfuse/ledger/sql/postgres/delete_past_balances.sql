-- Balances of windows that are over and whose entries retention deletes, a piece of them.
DELETE FROM balance WHERE balance_id IN (
    SELECT balance_id FROM balance WHERE ends_at_ms IS NOT NULL AND starts_at_ms < $1 AND ends_at_ms <= $2 LIMIT $3
);
