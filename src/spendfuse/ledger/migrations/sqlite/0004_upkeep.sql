-- Entries of calls made before the horizon are gone; it only ever moves forward. Windows that began before it and are
-- over have no balances any more, or are about to lose them.
CREATE TABLE retention (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    horizon_ms INTEGER NOT NULL
) STRICT;
INSERT INTO retention VALUES (1, 0);
CREATE TRIGGER retention_moves_forward BEFORE UPDATE ON retention WHEN NEW.horizon_ms < OLD.horizon_ms
BEGIN
    SELECT RAISE(ABORT, 'the horizon of retention only moves forward');
END;
CREATE TRIGGER retention_is_kept BEFORE DELETE ON retention
BEGIN
    SELECT RAISE(ABORT, 'the horizon of retention is kept');
END;

-- Invariant 14: entries never change, and go only in the transaction that moved the horizon beyond them.
DROP TRIGGER entry_is_never_deleted;
CREATE TRIGGER entry_is_kept BEFORE DELETE ON entry
WHEN OLD.reserved_at_ms >= coalesce((SELECT horizon_ms FROM retention), 0)
BEGIN
    SELECT RAISE(ABORT, 'entries are deleted by retention only');
END;

-- The part of `settled` whose entries are gone; only balances of windows that have not ended have one.
ALTER TABLE balance ADD COLUMN carried INTEGER NOT NULL DEFAULT 0;
CREATE INDEX balance_by_start ON balance (starts_at_ms) WHERE ends_at_ms IS NOT NULL;

-- What `spendfuse audit --repair` corrected: the figures before and after it, as JSON. Append only.
CREATE TABLE repair (
    repair_no INTEGER PRIMARY KEY,
    repaired_at_ms INTEGER NOT NULL,
    what TEXT NOT NULL,
    limit_name TEXT NOT NULL,
    subject TEXT NOT NULL,
    starts_at_ms INTEGER NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL
) STRICT;
CREATE TRIGGER repair_never_changes BEFORE UPDATE ON repair
BEGIN
    SELECT RAISE(ABORT, 'repairs never change');
END;
CREATE TRIGGER repair_is_never_deleted BEFORE DELETE ON repair
BEGIN
    SELECT RAISE(ABORT, 'repairs are never deleted');
END;

-- Entries added up by days (UTC), one label and its value: what reports over weeks and months read. The label '' stands
-- for all calls, so that those without a label are the difference.
CREATE TABLE spend_day (
    label TEXT NOT NULL,
    day_ms INTEGER NOT NULL,
    value TEXT NOT NULL,
    requests INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    estimated_cost INTEGER NOT NULL,
    PRIMARY KEY (label, day_ms, value)
) STRICT, WITHOUT ROWID;

-- Entries of calls made before this instant are in spend_day, all others are not yet. Upkeep moves it forward.
CREATE TABLE rolled_up (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    until_ms INTEGER NOT NULL
) STRICT;
INSERT INTO rolled_up VALUES (1, 0);

-- Invariant 7: what is spent late is added in the transaction of its entry, whichever version of Spendfuse writes it.
CREATE TRIGGER entry_is_added_to_its_day AFTER INSERT ON entry
WHEN NEW.reserved_at_ms < (SELECT until_ms FROM rolled_up)
BEGIN
    INSERT INTO spend_day
        (label, day_ms, value, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
    SELECT part.label, NEW.reserved_at_ms / 86400000 * 86400000, part.value, NEW.is_late = 0, NEW.calls, NEW.cost,
        NEW.input_tokens, NEW.output_tokens, NEW.estimated_cost
    FROM (
        SELECT '' AS label, '' AS value
        UNION ALL
        SELECT one.key, one.value FROM label_set JOIN json_each(labels) AS one
        WHERE label_set_id = NEW.label_set_id
        UNION ALL
        SELECT one.key, one.value FROM json_each(CASE NEW.fleeting WHEN '' THEN '{}' ELSE NEW.fleeting END) AS one
        WHERE one.key <> 'fingerprint'
    ) AS part
    WHERE true
    ON CONFLICT DO UPDATE SET
        requests = requests + excluded.requests, calls = calls + excluded.calls, cost = cost + excluded.cost,
        input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
        estimated_cost = estimated_cost + excluded.estimated_cost;
END;

-- What the keeper and lists of balances look for, however much else there is.
CREATE INDEX reservation_by_deadline ON reservation (deadline_ms);
CREATE INDEX balance_by_window ON balance (limit_id, window_no);
