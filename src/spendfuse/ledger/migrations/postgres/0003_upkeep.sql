-- No batch may be half-way through these tables while they change.
SELECT pg_advisory_xact_lock(store_lock_1());

-- The part of `settled` whose entries are gone; only balances of windows that have not ended have one.
ALTER TABLE balance ADD COLUMN carried bigint NOT NULL DEFAULT 0;
CREATE INDEX balance_by_start ON balance (starts_at_ms) WHERE ends_at_ms IS NOT NULL;

-- Entries of calls made before the horizon are gone; it only ever moves forward. Windows that began before it and are
-- over have no balances any more, or are about to lose them.
CREATE TABLE retention (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    horizon_ms bigint NOT NULL
);
INSERT INTO retention (horizon_ms) VALUES (0);
CREATE FUNCTION keep_horizon_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' OR NEW.horizon_ms < OLD.horizon_ms THEN
        RAISE EXCEPTION 'the horizon of retention only moves forward' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER retention_moves_forward BEFORE UPDATE OR DELETE ON retention
    FOR EACH ROW EXECUTE FUNCTION keep_horizon_1();
CREATE TRIGGER retention_is_never_truncated BEFORE TRUNCATE ON retention
    FOR EACH STATEMENT EXECUTE FUNCTION keep_horizon_1();

-- Invariant 14: entries never change, and go only in the transaction that moved the horizon beyond them. Looked at once
-- for each statement: a trigger for each row would cost more than the deletion.
CREATE FUNCTION keep_entries_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM gone WHERE reserved_at_ms >= coalesce((SELECT horizon_ms FROM retention), 0)) THEN
        RAISE EXCEPTION 'entries are deleted by retention only' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER entry_is_kept AFTER DELETE ON entry REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION keep_entries_1();
DROP TRIGGER entry_never_changes ON entry;
CREATE TRIGGER entry_never_changes BEFORE UPDATE ON entry
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_entries();

-- What retention deletes is vacuumed soon, so that new rows take its place: by default a fifth of a table may be dead.
ALTER TABLE entry SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.05
);
ALTER TABLE opened_subjects SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE owner SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE refusal SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- What `spendfuse audit --repair` corrected: the figures before and after it, as JSON. Append only.
CREATE TABLE repair (
    repair_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repaired_at_ms bigint NOT NULL,
    what text NOT NULL,
    limit_name text NOT NULL,
    subject text NOT NULL,
    starts_at_ms bigint NOT NULL,
    before text NOT NULL,
    after text NOT NULL
);
CREATE FUNCTION refuse_change_of_repairs_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'repairs never change and are never deleted' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER repair_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON repair
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_repairs_1();

-- Entries added up by days (UTC), one label and its value: what reports over weeks and months read. The label '' stands
-- for all calls, so that those without a label are the difference.
CREATE TABLE spend_day (
    label text COLLATE "C" NOT NULL,
    day_ms bigint NOT NULL,
    value text COLLATE "C" NOT NULL,
    requests bigint NOT NULL,
    calls bigint NOT NULL,
    cost bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    estimated_cost bigint NOT NULL,
    PRIMARY KEY (label, day_ms, value)
) PARTITION BY LIST (label);
-- Labels with about as many values as calls stand apart, or the rows of the others would be scattered among theirs.
CREATE TABLE spend_day_fleeting PARTITION OF spend_day FOR VALUES IN ('run', 'ip')
    WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);
CREATE TABLE spend_day_other PARTITION OF spend_day DEFAULT
    WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Entries of calls made before this instant are in spend_day, all others are not yet. Upkeep moves it forward.
CREATE TABLE rolled_up (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    until_ms bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO rolled_up (until_ms) VALUES (0);

-- Invariant 7: what is spent late is added in the transaction of its entry, whichever version of Spendfuse writes it.
-- Rows of others are waited for in the order of their keys, behind those of `entry` and before those of `spend`.
CREATE FUNCTION add_entries_to_their_days_1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_until_ms bigint := (SELECT until_ms FROM rolled_up WHERE one);
BEGIN
    IF NOT EXISTS (SELECT FROM added WHERE reserved_at_ms < v_until_ms) THEN
        RETURN NULL;
    END IF;
    INSERT INTO spend_day AS d
        (label, day_ms, value, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
    SELECT part.label, a.reserved_at_ms / 86400000 * 86400000 AS day_ms, part.value,
        count(*) FILTER (WHERE a.is_late = 0), sum(a.calls), sum(a.cost), sum(a.input_tokens), sum(a.output_tokens),
        sum(a.estimated_cost)
    FROM added a, LATERAL (
        SELECT '' AS label, '' AS value
        UNION ALL
        SELECT one.key, one.value FROM label_set l, json_each_text(l.labels::json) one
        WHERE l.label_set_id = a.label_set_id
        UNION ALL
        SELECT one.key, one.value
        FROM json_each_text((CASE a.fleeting WHEN '' THEN '{}' ELSE a.fleeting END)::json) one
        WHERE one.key <> 'fingerprint'
    ) part
    WHERE a.reserved_at_ms < v_until_ms
    GROUP BY part.label, a.reserved_at_ms / 86400000, part.value
    ORDER BY part.label COLLATE "C", day_ms, part.value COLLATE "C"
    ON CONFLICT (label, day_ms, value) DO UPDATE SET
        requests = d.requests + excluded.requests, calls = d.calls + excluded.calls, cost = d.cost + excluded.cost,
        input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens,
        estimated_cost = d.estimated_cost + excluded.estimated_cost;
    RETURN NULL;
END $$;
CREATE TRIGGER entries_are_added_to_their_days AFTER INSERT ON entry REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION add_entries_to_their_days_1();

-- What the keeper and lists of balances look for, however much else there is.
CREATE INDEX reservation_by_deadline ON reservation (deadline_ms);
CREATE INDEX balance_by_window ON balance (limit_id, window_no);
