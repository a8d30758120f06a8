-- Invariant 4 looks at no hour but the current one.
DELETE FROM opened_subjects WHERE hour_ms < ?;
