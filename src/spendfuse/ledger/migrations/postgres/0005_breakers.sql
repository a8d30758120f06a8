-- Limits that are spent, from the first refusal that says so until the window turns or the amount is raised. `amount` is
-- the one that was spent.
CREATE TABLE spent (
    limit_id bigint NOT NULL,
    subject text NOT NULL,
    window_no bigint NOT NULL,
    ends_at_ms bigint,
    amount bigint NOT NULL,
    since_ms bigint NOT NULL,
    PRIMARY KEY (limit_id, subject, window_no)
);
INSERT INTO revision VALUES ('spent', 0);

-- How a breaker stands for one subject; without a row it has been closed ever since. `each_labels` and `subject` are
-- JSON arrays. The last check is half of invariant 15: a probe is somebody's, and has an end.
CREATE TABLE breaker_state (
    breaker text NOT NULL,
    subject text NOT NULL,
    each_labels text NOT NULL,
    phase text NOT NULL CHECK (phase IN ('closed', 'open', 'half_open', 'forced_open')),
    since_ms bigint NOT NULL,
    tries_at_ms bigint,
    closes_at_ms bigint,
    probe_id bigint,
    probe_until_ms bigint,
    why text NOT NULL,
    who text NOT NULL,
    PRIMARY KEY (breaker, subject),
    CHECK ((phase = 'half_open') = (probe_id IS NOT NULL) AND (probe_id IS NULL) = (probe_until_ms IS NULL))
);
INSERT INTO revision VALUES ('breakers', 0);

-- What the attempts of a breaker's subject added up to, by the time at which they ended, until their window has passed.
CREATE TABLE breaker_count (
    breaker text NOT NULL,
    subject text NOT NULL,
    bucket_ms bigint NOT NULL,
    until_ms bigint NOT NULL,
    calls bigint NOT NULL,
    errors bigint NOT NULL,
    timed bigint NOT NULL,
    latency_ms bigint NOT NULL,
    cost bigint NOT NULL,
    output_tokens bigint NOT NULL,
    PRIMARY KEY (breaker, subject, bucket_ms)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX breaker_count_by_end ON breaker_count (until_ms);

-- Every change of a state, in the transaction that made it. Append only.
CREATE TABLE breaker_change (
    change_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL,
    breaker text NOT NULL,
    subject text NOT NULL,
    each_labels text NOT NULL,
    from_phase text NOT NULL,
    to_phase text NOT NULL,
    why text NOT NULL,
    who text NOT NULL
);
CREATE FUNCTION refuse_change_of_breaker_log_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log of breakers never changes' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER breaker_change_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON breaker_change
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_breaker_log_1();
