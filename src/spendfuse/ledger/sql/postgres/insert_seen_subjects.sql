-- Invariant 4: a subject is new until it has been admitted once.
INSERT INTO seen_subject (each_labels, subject)
SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING;
