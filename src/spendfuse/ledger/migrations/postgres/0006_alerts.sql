-- What people are told. `alert_id` is what makes two alerts the same (invariant 16). `about` is a limit's identity, a
-- breaker or a target, and with `subject` and `amount` says what the alert stands or falls with. `unrouted` has the bit
-- 1 until somebody said which channels are told of it, and 2 until the same was said of its end.
CREATE TABLE alert (
    alert_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id text NOT NULL UNIQUE,
    kind text NOT NULL,
    severity text NOT NULL,
    about text NOT NULL,
    subject text NOT NULL,
    amount bigint,
    ends_at_ms bigint,
    facts text NOT NULL,
    raised_at_ms bigint NOT NULL,
    unrouted bigint NOT NULL,
    resolved_at_ms bigint,
    resolution text NOT NULL DEFAULT '',
    details text NOT NULL DEFAULT ''
);
CREATE INDEX alert_unrouted ON alert (alert_no) WHERE unrouted <> 0;
CREATE INDEX alert_open ON alert (ends_at_ms) WHERE resolved_at_ms IS NULL;
CREATE INDEX alert_by_time ON alert (raised_at_ms);

-- One alert to one channel: that it is, and that it is over. `is_lead`: this one carried a message, alone or with
-- others summed up in it.
CREATE TABLE delivery (
    alert_no bigint NOT NULL,
    channel text NOT NULL,
    phase text NOT NULL,
    fate text NOT NULL,
    attempts bigint NOT NULL,
    next_try_at_ms bigint NOT NULL,
    first_try_at_ms bigint,
    ended_at_ms bigint,
    error text NOT NULL,
    is_lead smallint NOT NULL,
    PRIMARY KEY (alert_no, channel, phase)
);
CREATE INDEX delivery_due ON delivery (next_try_at_ms) WHERE fate = 'pending';
CREATE INDEX delivery_failed ON delivery (ended_at_ms) WHERE fate = 'failed';
CREATE INDEX delivery_sent ON delivery (ended_at_ms) WHERE is_lead = 1;

-- The one process that delivers, until when, and how far it has followed what else alerts come from.
CREATE TABLE outbox (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder text NOT NULL,
    lease_until_ms bigint NOT NULL,
    limits_revision bigint NOT NULL,
    overruns_revision bigint NOT NULL,
    breaker_change_no bigint NOT NULL
);
INSERT INTO outbox (holder, lease_until_ms, limits_revision, overruns_revision, breaker_change_no)
VALUES ('', 0, 0, 0, 0);
