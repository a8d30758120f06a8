-- Invariant 3: written in the transaction of the entry that was above its quote.
INSERT INTO target_overrun (target, percent, since_ms) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET percent = excluded.percent, since_ms = excluded.since_ms;
