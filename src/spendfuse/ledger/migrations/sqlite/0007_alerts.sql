-- What people are told. `alert_id` is what makes two alerts the same (invariant 16). `about` is a limit's identity, a
-- breaker or a target, and with `subject` and `amount` says what the alert stands or falls with. `unrouted` has the bit
-- 1 until somebody said which channels are told of it, and 2 until the same was said of its end.
CREATE TABLE alert (
    alert_no INTEGER PRIMARY KEY,
    alert_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    about TEXT NOT NULL,
    subject TEXT NOT NULL,
    amount INTEGER,
    ends_at_ms INTEGER,
    facts TEXT NOT NULL,
    raised_at_ms INTEGER NOT NULL,
    unrouted INTEGER NOT NULL,
    resolved_at_ms INTEGER,
    resolution TEXT NOT NULL DEFAULT '',
    details TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX alert_unrouted ON alert (alert_no) WHERE unrouted <> 0;
CREATE INDEX alert_open ON alert (ends_at_ms) WHERE resolved_at_ms IS NULL;
CREATE INDEX alert_by_time ON alert (raised_at_ms);

-- One alert to one channel: that it is, and that it is over. `is_lead`: this one carried a message, alone or with
-- others summed up in it.
CREATE TABLE delivery (
    alert_no INTEGER NOT NULL,
    channel TEXT NOT NULL,
    phase TEXT NOT NULL,
    fate TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_try_at_ms INTEGER NOT NULL,
    first_try_at_ms INTEGER,
    ended_at_ms INTEGER,
    error TEXT NOT NULL,
    is_lead INTEGER NOT NULL,
    PRIMARY KEY (alert_no, channel, phase)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (next_try_at_ms) WHERE fate = 'pending';
CREATE INDEX delivery_failed ON delivery (ended_at_ms) WHERE fate = 'failed';
CREATE INDEX delivery_sent ON delivery (ended_at_ms) WHERE is_lead = 1;

-- The one process that delivers, until when, and how far it has followed what else alerts come from.
CREATE TABLE outbox (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    holder TEXT NOT NULL,
    lease_until_ms INTEGER NOT NULL,
    limits_revision INTEGER NOT NULL,
    overruns_revision INTEGER NOT NULL,
    breaker_change_no INTEGER NOT NULL
) STRICT;
INSERT INTO outbox VALUES (1, '', 0, 0, 0, 0);
