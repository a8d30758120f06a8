-- Invariant 2: back to the config's amounts where the end has come.
DELETE FROM override WHERE until_ms <= $1 RETURNING limit_id, subject;
