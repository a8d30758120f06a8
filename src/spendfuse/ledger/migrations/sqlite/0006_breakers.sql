-- Limits that are spent, from the first refusal that says so until the window turns or the amount is raised. `amount` is
-- the one that was spent.
CREATE TABLE spent (
    limit_id INTEGER NOT NULL,
    subject TEXT NOT NULL,
    window_no INTEGER NOT NULL,
    ends_at_ms INTEGER,
    amount INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (limit_id, subject, window_no)
) STRICT, WITHOUT ROWID;
INSERT INTO revision VALUES ('spent', 0);

-- How a breaker stands for one subject; without a row it has been closed ever since. `each_labels` and `subject` are
-- JSON arrays. The last check is half of invariant 15: a probe is somebody's, and has an end.
CREATE TABLE breaker_state (
    breaker TEXT NOT NULL,
    subject TEXT NOT NULL,
    each_labels TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('closed', 'open', 'half_open', 'forced_open')),
    since_ms INTEGER NOT NULL,
    tries_at_ms INTEGER,
    closes_at_ms INTEGER,
    probe_id INTEGER,
    probe_until_ms INTEGER,
    why TEXT NOT NULL,
    who TEXT NOT NULL,
    PRIMARY KEY (breaker, subject),
    CHECK ((phase = 'half_open') = (probe_id IS NOT NULL) AND (probe_id IS NULL) = (probe_until_ms IS NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO revision VALUES ('breakers', 0);

-- What the attempts of a breaker's subject added up to, by the time at which they ended, until their window has passed.
CREATE TABLE breaker_count (
    breaker TEXT NOT NULL,
    subject TEXT NOT NULL,
    bucket_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    PRIMARY KEY (breaker, subject, bucket_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX breaker_count_by_end ON breaker_count (until_ms);

-- Every change of a state, in the transaction that made it. Append only.
CREATE TABLE breaker_change (
    change_no INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    breaker TEXT NOT NULL,
    subject TEXT NOT NULL,
    each_labels TEXT NOT NULL,
    from_phase TEXT NOT NULL,
    to_phase TEXT NOT NULL,
    why TEXT NOT NULL,
    who TEXT NOT NULL
) STRICT;
CREATE TRIGGER breaker_change_never_changes BEFORE UPDATE ON breaker_change
BEGIN
    SELECT RAISE(ABORT, 'the log of breakers never changes');
END;
CREATE TRIGGER breaker_change_is_never_deleted BEFORE DELETE ON breaker_change
BEGIN
    SELECT RAISE(ABORT, 'the log of breakers is never deleted');
END;
