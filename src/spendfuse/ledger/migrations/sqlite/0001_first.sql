-- Amounts are nano-dollars or tokens, times are milliseconds since the epoch by the host's clock.

-- Every set of limits that was applied, the newest last: a process that holds another one must not admit calls.
CREATE TABLE config (
    config_no INTEGER PRIMARY KEY,
    hash TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT;

-- Grows with every change of limits, overrides or keys, so that other processes read them again only then.
CREATE TABLE revision (
    what TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO revision VALUES ('limits', 0), ('keys', 0);

-- A limit that was removed keeps its row and its overrides; active_since_ms is NULL then.
CREATE TABLE applied_limit (
    limit_id INTEGER PRIMARY KEY,
    identity TEXT NOT NULL UNIQUE,
    definition TEXT NOT NULL,
    active_since_ms INTEGER
) STRICT;

CREATE TABLE override (
    limit_id INTEGER NOT NULL,
    subject TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (limit_id, subject)
) STRICT, WITHOUT ROWID;

-- One limit for one subject in one window. The checks are invariants 1 and 3; a shadow limit has no ceiling.
CREATE TABLE balance (
    limit_id INTEGER NOT NULL,
    subject TEXT NOT NULL,
    window_no INTEGER NOT NULL,
    starts_at_ms INTEGER NOT NULL,
    ends_at_ms INTEGER,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    ceiling INTEGER,
    settled INTEGER NOT NULL CHECK (settled >= 0),
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    overrun INTEGER NOT NULL CHECK (overrun >= 0),
    PRIMARY KEY (limit_id, subject, window_no),
    CHECK (ceiling IS NULL OR settled + reserved <= ceiling)
) STRICT, WITHOUT ROWID;

-- Requests that refill smoothly: the theoretical arrival time of the next one.
CREATE TABLE rate (
    limit_id INTEGER NOT NULL,
    subject TEXT NOT NULL,
    tat_ns INTEGER NOT NULL,
    PRIMARY KEY (limit_id, subject)
) STRICT, WITHOUT ROWID;

-- Labels with few values, interned as canonical JSON. Those with about as many values as calls (run, ip, fingerprint)
-- stand with the reservation and its entries, in the column `fleeting`.
CREATE TABLE label_set (
    label_set_id INTEGER PRIMARY KEY,
    labels TEXT NOT NULL UNIQUE
) STRICT;

-- The processes that hold reservations. A number is never used again.
CREATE TABLE owner (
    owner_id INTEGER PRIMARY KEY AUTOINCREMENT,
    started_at_ms INTEGER NOT NULL,
    lease_until_ms INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL
) STRICT;

-- Open reservations only; which balances one touches follows from its labels and reserved_at_ms.
CREATE TABLE reservation (
    reservation_id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL,
    reserved_at_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    cap INTEGER NOT NULL,
    cost INTEGER NOT NULL CHECK (cost >= 0),
    input_tokens INTEGER NOT NULL CHECK (input_tokens >= 0),
    output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),
    label_set_id INTEGER NOT NULL,
    fleeting TEXT NOT NULL
) STRICT;

-- Append only. The key is invariant 5: one closing entry and at most one late one for each reservation.
CREATE TABLE entry (
    reservation_id INTEGER NOT NULL,
    is_late INTEGER NOT NULL CHECK (is_late IN (0, 1)),
    kind INTEGER NOT NULL CHECK ((kind = 4) = is_late),
    reserved_at_ms INTEGER NOT NULL,
    written_at_ms INTEGER NOT NULL,
    label_set_id INTEGER NOT NULL,
    fleeting TEXT NOT NULL,
    calls INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    held_cost INTEGER NOT NULL,
    held_input_tokens INTEGER NOT NULL,
    held_output_tokens INTEGER NOT NULL,
    is_estimated INTEGER NOT NULL,
    estimated_cost INTEGER NOT NULL,
    overrun_cost INTEGER NOT NULL CHECK (overrun_cost >= 0),
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    cache_write_long_tokens INTEGER NOT NULL,
    input_audio_tokens INTEGER NOT NULL,
    cache_read_audio_tokens INTEGER NOT NULL,
    output_audio_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    PRIMARY KEY (reservation_id, is_late)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_by_time ON entry (reserved_at_ms);

-- Invariant 14.
CREATE TRIGGER entry_never_changes BEFORE UPDATE ON entry
BEGIN
    SELECT RAISE(ABORT, 'entries never change');
END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
BEGIN
    SELECT RAISE(ABORT, 'entries are never deleted');
END;

-- Entries added up by quarters of an hour (so that they fit every time zone's days) and label sets.
CREATE TABLE spend (
    bucket_ms INTEGER NOT NULL,
    label_set_id INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    estimated_cost INTEGER NOT NULL,
    PRIMARY KEY (bucket_ms, label_set_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE refusal (
    hour_ms INTEGER NOT NULL,
    code TEXT NOT NULL,
    limit_name TEXT NOT NULL,
    feature TEXT NOT NULL,
    user TEXT NOT NULL,
    shadow INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (hour_ms, code, limit_name, feature, user, shadow)
) STRICT, WITHOUT ROWID;

-- A name outlives a rotation: only one key of it is live.
CREATE TABLE client_key (
    key_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    labels TEXT NOT NULL,
    labels_from TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    revoked_at_ms INTEGER
) STRICT;
CREATE UNIQUE INDEX client_key_live ON client_key (name) WHERE revoked_at_ms IS NULL;
