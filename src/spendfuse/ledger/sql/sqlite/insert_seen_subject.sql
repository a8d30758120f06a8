-- Invariant 4: a subject is new until it has been admitted once.
INSERT OR IGNORE INTO seen_subject (each_labels, subject) VALUES (?, ?);
