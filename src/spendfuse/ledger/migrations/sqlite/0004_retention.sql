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
