-- Amounts are nano-dollars or tokens, times are milliseconds since the epoch by the store's clock.
--
-- What is in a migration is never changed: processes of older versions go on using it while a newer one is applied. So
-- a function or type that must differ gets the next number in its name, and a column that is added has a default.

-- Every set of limits that was applied, the newest last: a process that holds another one must not admit calls.
CREATE TABLE config (
    config_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash text NOT NULL,
    applied_at_ms bigint NOT NULL
);

-- Grows with every change of limits, overrides, keys or overruns, so that processes read them again only then.
CREATE TABLE revision (
    what text PRIMARY KEY,
    number bigint NOT NULL
);
INSERT INTO revision VALUES ('limits', 0), ('keys', 0), ('overruns', 0);

-- A limit that was removed keeps its row and its overrides; active_since_ms is NULL then.
CREATE TABLE applied_limit (
    limit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    identity text NOT NULL UNIQUE,
    definition text NOT NULL,
    active_since_ms bigint
);

CREATE TABLE override (
    limit_id bigint NOT NULL,
    subject text NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (limit_id, subject)
);

-- One limit for one subject in one window. The checks are invariants 1 and 3; a shadow limit has no ceiling.
CREATE TABLE balance (
    balance_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    limit_id bigint NOT NULL,
    subject text NOT NULL,
    window_no bigint NOT NULL,
    starts_at_ms bigint NOT NULL,
    ends_at_ms bigint,
    amount bigint NOT NULL CHECK (amount >= 0),
    ceiling bigint,
    settled bigint NOT NULL CHECK (settled >= 0),
    reserved bigint NOT NULL CHECK (reserved >= 0),
    overrun bigint NOT NULL CHECK (overrun >= 0),
    UNIQUE (limit_id, subject, window_no),
    CHECK (ceiling IS NULL OR settled + reserved <= ceiling)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Requests that refill smoothly: the theoretical arrival time of the next one.
CREATE TABLE rate (
    limit_id bigint NOT NULL,
    subject text NOT NULL,
    tat_ns bigint NOT NULL,
    PRIMARY KEY (limit_id, subject)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Labels with few values, interned as canonical JSON and found by their SHA-256. Those with about as many values as
-- calls (run, ip, fingerprint) stand with the reservation and its entries, in the column `fleeting`.
CREATE SEQUENCE label_set_number;
CREATE TABLE label_set (
    label_set_id bigint PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    labels text NOT NULL
);

-- The processes that hold reservations. A number is never used again; the lease is on the store's own clock.
CREATE TABLE owner (
    owner_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at_ms bigint NOT NULL,
    lease_until_ms bigint NOT NULL,
    pid bigint NOT NULL,
    host text NOT NULL
);

-- Open reservations only; which balances one touches follows from its labels and reserved_at_ms.
CREATE TABLE reservation (
    reservation_id bigint PRIMARY KEY,
    owner_id bigint NOT NULL,
    reserved_at_ms bigint NOT NULL,
    deadline_ms bigint NOT NULL,
    cap bigint NOT NULL,
    cost bigint NOT NULL CHECK (cost >= 0),
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    label_set_id bigint NOT NULL,
    fleeting text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);

-- Append only. The key is invariant 5: one closing entry and at most one late one for each reservation.
CREATE TABLE entry (
    reservation_id bigint NOT NULL,
    is_late smallint NOT NULL CHECK (is_late IN (0, 1)),
    kind smallint NOT NULL CHECK ((kind = 4) = (is_late = 1)),
    reserved_at_ms bigint NOT NULL,
    written_at_ms bigint NOT NULL,
    label_set_id bigint NOT NULL,
    fleeting text NOT NULL,
    calls bigint NOT NULL,
    cost bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    held_cost bigint NOT NULL,
    held_input_tokens bigint NOT NULL,
    held_output_tokens bigint NOT NULL,
    is_estimated smallint NOT NULL,
    estimated_cost bigint NOT NULL,
    overrun_cost bigint NOT NULL CHECK (overrun_cost >= 0),
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    cache_write_long_tokens bigint NOT NULL,
    input_audio_tokens bigint NOT NULL,
    cache_read_audio_tokens bigint NOT NULL,
    output_audio_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    PRIMARY KEY (reservation_id, is_late)
);
CREATE INDEX entry_by_time ON entry (reserved_at_ms);

-- Invariant 14.
CREATE FUNCTION refuse_change_of_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries never change and are never deleted' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER entry_never_changes BEFORE UPDATE OR DELETE ON entry
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_entries();
CREATE TRIGGER entries_are_never_truncated BEFORE TRUNCATE ON entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_entries();

-- Entries added up by quarters of an hour (so that they fit every time zone's days) and label sets.
CREATE TABLE spend (
    bucket_ms bigint NOT NULL,
    label_set_id bigint NOT NULL,
    requests bigint NOT NULL,
    calls bigint NOT NULL,
    cost bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    estimated_cost bigint NOT NULL,
    PRIMARY KEY (bucket_ms, label_set_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE refusal (
    hour_ms bigint NOT NULL,
    code text NOT NULL,
    limit_name text NOT NULL,
    feature text NOT NULL,
    "user" text NOT NULL,
    shadow smallint NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (hour_ms, code, limit_name, feature, "user", shadow)
);

-- A name outlives a rotation: only one key of it is live.
CREATE TABLE client_key (
    key_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    labels text NOT NULL,
    labels_from text NOT NULL,
    created_at_ms bigint NOT NULL,
    revoked_at_ms bigint
);
CREATE UNIQUE INDEX client_key_live ON client_key (name) WHERE revoked_at_ms IS NULL;

-- Subjects of which a call was ever admitted, or for which an amount was set, by the labels that make them up; both are
-- JSON arrays. Never deleted: balances and rates come and go with their limits and windows, and who was known stays so.
CREATE TABLE seen_subject (
    each_labels text NOT NULL,
    subject text NOT NULL,
    PRIMARY KEY (each_labels, subject)
);

-- How many new subjects the calls of a key opened in an hour.
CREATE TABLE opened_subjects (
    key text NOT NULL,
    hour_ms bigint NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (key, hour_ms)
);

-- Targets that charged more than a quote: what their later quotes are multiplied by, until an operator clears it.
CREATE TABLE target_overrun (
    target text PRIMARY KEY,
    percent bigint NOT NULL CHECK (percent > 100),
    since_ms bigint NOT NULL
);

-- The lock over the store: batches share it; what touches rows that can't be named beforehand (applying limits, setting
-- an amount, ending an owner) takes it alone.
CREATE FUNCTION store_lock_1() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 6019321484172885093';

-- The first half of a batch: locks every balance, rate, reservation, key's count and target that it may touch and says
-- how they stand. Deadlocks are impossible, as every batch locks the tables in this order and their rows in ascending
-- order, and waits for rows of others nowhere else but in write_rows_1, which does so in an order of its own.
--
-- Where `revision` is not the caller's, nothing but the store's lock has been taken: limits have to be read first.
-- Rows that are not there are not made: write_rows_1 inserts them, and who comes second breaks a key and starts again.
CREATE FUNCTION lock_rows_1(
    p_now_ns bigint, p_revision bigint, p_owner_id bigint,
    p_balance_ids bigint[], p_limit_ids bigint[], p_subjects text[], p_windows bigint[],
    p_rate_limit_ids bigint[], p_rate_subjects text[],
    p_reservation_ids bigint[],
    p_digests bytea[],
    p_keys text[], p_seen_each text[], p_seen_subjects text[],
    p_targets text[],
    OUT revision bigint, OUT is_owner boolean, OUT now_ns bigint,
    OUT found_places bigint[], OUT found_ids bigint[],
    OUT balance_ids bigint[], OUT amounts bigint[], OUT ceilings bigint[], OUT settled bigint[], OUT reserved bigint[],
    OUT overruns bigint[],
    OUT rate_places bigint[], OUT tats_ns bigint[],
    OUT open_ids bigint[], OUT deadlines_ms bigint[], OUT caps bigint[], OUT costs bigint[], OUT input_tokens bigint[],
    OUT output_tokens bigint[], OUT ended_ids bigint[],
    OUT label_set_ids bigint[], OUT are_label_sets_new boolean[],
    OUT opened_keys text[], OUT opened_counts bigint[], OUT seen_places bigint[],
    OUT overrun_targets text[], OUT overrun_percents bigint[], OUT overruns_since_ms bigint[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_hour_ms bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(store_lock_1());
    SELECT r.number INTO revision FROM revision r WHERE r.what = 'limits';
    IF lock_rows_1.revision <> p_revision THEN
        RETURN;
    END IF;
    is_owner := EXISTS (SELECT FROM owner o WHERE o.owner_id = p_owner_id);
    IF cardinality(p_limit_ids) > 0 THEN
        SELECT array_agg(w.place), array_agg(b.balance_id) INTO found_places, found_ids
        FROM unnest(p_limit_ids, p_subjects, p_windows) WITH ORDINALITY AS w(limit_id, subject, window_no, place)
        JOIN balance b ON b.limit_id = w.limit_id AND b.subject = w.subject AND b.window_no = w.window_no;
    END IF;
    SELECT array_agg(q.balance_id), array_agg(q.amount), array_agg(q.ceiling), array_agg(q.settled),
        array_agg(q.reserved), array_agg(q.overrun)
    INTO balance_ids, amounts, ceilings, settled, reserved, overruns
    FROM (
        SELECT b.balance_id, b.amount, b.ceiling, b.settled, b.reserved, b.overrun FROM balance b
        WHERE b.balance_id = ANY (p_balance_ids || lock_rows_1.found_ids) ORDER BY b.balance_id FOR UPDATE
    ) q;
    IF cardinality(p_rate_limit_ids) > 0 THEN
        SELECT array_agg(q.place), array_agg(q.tat_ns) INTO rate_places, tats_ns
        FROM (
            SELECT w.place, r.tat_ns
            FROM unnest(p_rate_limit_ids, p_rate_subjects) WITH ORDINALITY AS w(limit_id, subject, place)
            JOIN rate r ON r.limit_id = w.limit_id AND r.subject = w.subject
            ORDER BY r.limit_id, r.subject FOR UPDATE OF r
        ) q;
    END IF;
    IF cardinality(p_reservation_ids) > 0 THEN
        SELECT array_agg(q.reservation_id), array_agg(q.deadline_ms), array_agg(q.cap), array_agg(q.cost),
            array_agg(q.input_tokens), array_agg(q.output_tokens)
        INTO open_ids, deadlines_ms, caps, costs, input_tokens, output_tokens
        FROM (
            SELECT r.reservation_id, r.deadline_ms, r.cap, r.cost, r.input_tokens, r.output_tokens FROM reservation r
            WHERE r.reservation_id = ANY (p_reservation_ids) ORDER BY r.reservation_id FOR UPDATE
        ) q;
        SELECT array_agg(e.reservation_id) INTO ended_ids FROM entry e
        WHERE e.reservation_id = ANY (p_reservation_ids) AND e.is_late = 0;
    END IF;
    now_ns := coalesce(p_now_ns, (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint);
    IF cardinality(p_digests) > 0 THEN
        SELECT array_agg(coalesce(l.label_set_id, nextval('label_set_number')) ORDER BY w.place),
            array_agg(l.label_set_id IS NULL ORDER BY w.place)
        INTO label_set_ids, are_label_sets_new
        FROM unnest(p_digests) WITH ORDINALITY AS w(digest, place) LEFT JOIN label_set l ON l.digest = w.digest;
    END IF;
    IF cardinality(p_seen_subjects) > 0 THEN
        v_hour_ms := lock_rows_1.now_ns / 1000000 / 3600000 * 3600000;
        SELECT array_agg(q.key), array_agg(q.count) INTO opened_keys, opened_counts
        FROM (
            SELECT o.key, o.count FROM opened_subjects o
            WHERE o.key = ANY (p_keys) AND o.hour_ms = v_hour_ms ORDER BY o.key FOR UPDATE
        ) q;
        SELECT array_agg(w.place) INTO seen_places
        FROM unnest(p_seen_each, p_seen_subjects) WITH ORDINALITY AS w(each_labels, subject, place)
        JOIN seen_subject s ON s.each_labels = w.each_labels AND s.subject = w.subject;
    END IF;
    IF cardinality(p_targets) > 0 THEN
        SELECT array_agg(q.target), array_agg(q.percent), array_agg(q.since_ms)
        INTO overrun_targets, overrun_percents, overruns_since_ms
        FROM (
            SELECT t.target, t.percent, t.since_ms FROM target_overrun t
            WHERE t.target = ANY (p_targets) ORDER BY t.target FOR UPDATE
        ) q;
    END IF;
END $$;

CREATE TYPE new_label_set_1 AS (label_set_id bigint, digest bytea, labels text);
CREATE TYPE balance_change_1 AS (balance_id bigint, settled bigint, reserved bigint, ceiling bigint, overrun bigint);
CREATE TYPE new_balance_1 AS (
    limit_id bigint, subject text, window_no bigint, starts_at_ms bigint, ends_at_ms bigint, amount bigint,
    ceiling bigint, settled bigint, reserved bigint, overrun bigint
);
CREATE TYPE rate_change_1 AS (limit_id bigint, subject text, tat_ns bigint, is_new boolean);
CREATE TYPE seen_subject_1 AS (each_labels text, subject text);
CREATE TYPE opened_subjects_1 AS (key text, hour_ms bigint, count bigint, is_new boolean);
CREATE TYPE new_reservation_1 AS (
    reservation_id bigint, owner_id bigint, reserved_at_ms bigint, deadline_ms bigint, cap bigint, cost bigint,
    input_tokens bigint, output_tokens bigint, label_set_id bigint, fleeting text
);
CREATE TYPE extension_1 AS (
    cap bigint, cost bigint, input_tokens bigint, output_tokens bigint, deadline_ms bigint, reservation_id bigint
);
CREATE TYPE new_entry_1 AS (
    reservation_id bigint, is_late smallint, kind smallint, reserved_at_ms bigint, written_at_ms bigint,
    label_set_id bigint, fleeting text, calls bigint, cost bigint, input_tokens bigint, output_tokens bigint,
    held_cost bigint, held_input_tokens bigint, held_output_tokens bigint, is_estimated smallint,
    estimated_cost bigint, overrun_cost bigint, cache_read_tokens bigint, cache_write_tokens bigint,
    cache_write_long_tokens bigint, input_audio_tokens bigint, cache_read_audio_tokens bigint,
    output_audio_tokens bigint, reasoning_tokens bigint
);
CREATE TYPE spend_1 AS (
    bucket_ms bigint, label_set_id bigint, requests bigint, calls bigint, cost bigint, input_tokens bigint,
    output_tokens bigint, estimated_cost bigint
);
CREATE TYPE overrun_1 AS (target text, percent bigint, since_ms bigint, is_new boolean);
CREATE TYPE refusal_1 AS (
    hour_ms bigint, code text, limit_name text, feature text, user_label text, shadow smallint, count bigint
);

-- The second half of a batch: writes all that was decided over the rows that lock_rows_1 locked. Rows of others are
-- waited for table by table in this order, and in the order of their keys.
CREATE FUNCTION write_rows_1(
    p_label_sets new_label_set_1[], p_balances balance_change_1[], p_new_balances new_balance_1[],
    p_rates rate_change_1[], p_seen seen_subject_1[], p_opened opened_subjects_1[],
    p_reservations new_reservation_1[], p_extensions extension_1[], p_ended bigint[],
    p_entries new_entry_1[], p_spend spend_1[], p_overruns overrun_1[], p_refusals refusal_1[]
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_rows bigint;
BEGIN
    -- Invariant 8: equal labels have one number.
    IF cardinality(p_label_sets) > 0 THEN
        INSERT INTO label_set (label_set_id, digest, labels)
        SELECT x.label_set_id, x.digest, x.labels FROM unnest(p_label_sets) x ORDER BY x.digest;
    END IF;
    -- Invariants 1 and 3: the table's checks refuse what the decision should never have allowed.
    IF cardinality(p_balances) > 0 THEN
        UPDATE balance b SET settled = x.settled, reserved = x.reserved, ceiling = x.ceiling, overrun = x.overrun
        FROM unnest(p_balances) x WHERE b.balance_id = x.balance_id;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        IF v_rows <> cardinality(p_balances) THEN
            RAISE EXCEPTION 'a locked balance is gone' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    IF cardinality(p_new_balances) > 0 THEN
        INSERT INTO balance
            (limit_id, subject, window_no, starts_at_ms, ends_at_ms, amount, ceiling, settled, reserved, overrun)
        SELECT x.limit_id, x.subject, x.window_no, x.starts_at_ms, x.ends_at_ms, x.amount, x.ceiling, x.settled,
            x.reserved, x.overrun
        FROM unnest(p_new_balances) x ORDER BY x.limit_id, x.subject, x.window_no;
    END IF;
    -- Invariant 4: rates are read and written with the balances.
    IF cardinality(p_rates) > 0 THEN
        UPDATE rate r SET tat_ns = x.tat_ns FROM unnest(p_rates) x
        WHERE NOT x.is_new AND r.limit_id = x.limit_id AND r.subject = x.subject;
        INSERT INTO rate (limit_id, subject, tat_ns)
        SELECT x.limit_id, x.subject, x.tat_ns FROM unnest(p_rates) x WHERE x.is_new ORDER BY x.limit_id, x.subject;
    END IF;
    -- Invariant 4: a subject is new until it has been admitted once, counted in the transaction that admits.
    IF cardinality(p_seen) > 0 THEN
        INSERT INTO seen_subject (each_labels, subject)
        SELECT x.each_labels, x.subject FROM unnest(p_seen) x ORDER BY x.each_labels, x.subject;
        UPDATE opened_subjects o SET count = x.count FROM unnest(p_opened) x
        WHERE NOT x.is_new AND o.key = x.key AND o.hour_ms = x.hour_ms;
        INSERT INTO opened_subjects (key, hour_ms, count)
        SELECT x.key, x.hour_ms, x.count FROM unnest(p_opened) x WHERE x.is_new ORDER BY x.key;
    END IF;
    -- Invariant 6: an id that is open already breaks the key, never holds twice.
    IF cardinality(p_reservations) > 0 THEN
        INSERT INTO reservation
            (reservation_id, owner_id, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens,
             label_set_id, fleeting)
        SELECT x.reservation_id, x.owner_id, x.reserved_at_ms, x.deadline_ms, x.cap, x.cost, x.input_tokens,
            x.output_tokens, x.label_set_id, x.fleeting
        FROM unnest(p_reservations) x ORDER BY x.reservation_id;
    END IF;
    -- Invariant 4: what an extension holds, written in the transaction that moved the balances.
    IF cardinality(p_extensions) > 0 THEN
        UPDATE reservation r SET cap = x.cap, cost = x.cost, input_tokens = x.input_tokens,
            output_tokens = x.output_tokens, deadline_ms = x.deadline_ms
        FROM unnest(p_extensions) x WHERE r.reservation_id = x.reservation_id;
    END IF;
    -- Invariant 5: a reservation ends once. Each of these was locked while open, so each must go now.
    IF cardinality(p_ended) > 0 THEN
        DELETE FROM reservation r WHERE r.reservation_id = ANY (p_ended);
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        IF v_rows <> cardinality(p_ended) THEN
            RAISE EXCEPTION 'a locked reservation is gone' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    -- Invariants 5, 7 and 14: the key admits one closing and one late entry, and triggers refuse every change.
    IF cardinality(p_entries) > 0 THEN
        INSERT INTO entry
            (reservation_id, is_late, kind, reserved_at_ms, written_at_ms, label_set_id, fleeting, calls,
             cost, input_tokens, output_tokens, held_cost, held_input_tokens, held_output_tokens,
             is_estimated, estimated_cost, overrun_cost,
             cache_read_tokens, cache_write_tokens, cache_write_long_tokens, input_audio_tokens,
             cache_read_audio_tokens, output_audio_tokens, reasoning_tokens)
        SELECT x.reservation_id, x.is_late, x.kind, x.reserved_at_ms, x.written_at_ms, x.label_set_id, x.fleeting,
            x.calls, x.cost, x.input_tokens, x.output_tokens, x.held_cost, x.held_input_tokens,
            x.held_output_tokens, x.is_estimated, x.estimated_cost, x.overrun_cost, x.cache_read_tokens,
            x.cache_write_tokens, x.cache_write_long_tokens, x.input_audio_tokens, x.cache_read_audio_tokens,
            x.output_audio_tokens, x.reasoning_tokens
        FROM unnest(p_entries) x ORDER BY x.reservation_id, x.is_late;
    END IF;
    -- Invariant 7: the rollup moves in the transaction of its entries.
    IF cardinality(p_spend) > 0 THEN
        INSERT INTO spend AS s
            (bucket_ms, label_set_id, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
        SELECT x.bucket_ms, x.label_set_id, x.requests, x.calls, x.cost, x.input_tokens, x.output_tokens,
            x.estimated_cost
        FROM unnest(p_spend) x ORDER BY x.bucket_ms, x.label_set_id
        ON CONFLICT (bucket_ms, label_set_id) DO UPDATE SET
            requests = s.requests + excluded.requests, calls = s.calls + excluded.calls,
            cost = s.cost + excluded.cost, input_tokens = s.input_tokens + excluded.input_tokens,
            output_tokens = s.output_tokens + excluded.output_tokens,
            estimated_cost = s.estimated_cost + excluded.estimated_cost;
    END IF;
    -- Invariant 3: written in the transaction of the entry that was above its quote.
    IF cardinality(p_overruns) > 0 THEN
        UPDATE target_overrun t SET percent = x.percent, since_ms = x.since_ms FROM unnest(p_overruns) x
        WHERE NOT x.is_new AND t.target = x.target;
        INSERT INTO target_overrun (target, percent, since_ms)
        SELECT x.target, x.percent, x.since_ms FROM unnest(p_overruns) x WHERE x.is_new ORDER BY x.target;
        UPDATE revision SET number = number + 1 WHERE what = 'overruns';
    END IF;
    -- Invariant 4: a refusal writes no entry; it is only counted here.
    IF cardinality(p_refusals) > 0 THEN
        INSERT INTO refusal AS r (hour_ms, code, limit_name, feature, "user", shadow, count)
        SELECT x.hour_ms, x.code, x.limit_name, x.feature, x.user_label, x.shadow, x.count FROM unnest(p_refusals) x
        ORDER BY x.hour_ms, x.code, x.limit_name, x.feature, x.user_label, x.shadow
        ON CONFLICT (hour_ms, code, limit_name, feature, "user", shadow) DO UPDATE SET count = r.count + excluded.count;
    END IF;
END $$;
