-- Subjects of which a call was ever admitted, or for which an amount was set, by the labels that make them up; both are
-- JSON arrays. Never deleted: balances and rates come and go with their limits and windows, and who was known stays so.
CREATE TABLE seen_subject (
    each_labels TEXT NOT NULL,
    subject TEXT NOT NULL,
    PRIMARY KEY (each_labels, subject)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO seen_subject
SELECT json_extract(definition, '$.each'), subject
FROM (SELECT limit_id, subject FROM balance UNION SELECT limit_id, subject FROM rate UNION SELECT limit_id, subject FROM override)
    JOIN applied_limit USING (limit_id);

-- How many new subjects the calls of a key opened in an hour.
CREATE TABLE opened_subjects (
    key TEXT NOT NULL,
    hour_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (key, hour_ms)
) STRICT, WITHOUT ROWID;

-- Targets that charged more than a quote: what their later quotes are multiplied by, until an operator clears it.
CREATE TABLE target_overrun (
    target TEXT PRIMARY KEY,
    percent INTEGER NOT NULL CHECK (percent > 100),
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO revision VALUES ('overruns', 0);
