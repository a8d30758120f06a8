-- When an amount that was set for a subject goes back to the config's; NULL: not before it is reset.
ALTER TABLE override ADD COLUMN until_ms bigint;
CREATE INDEX override_by_end ON override (until_ms) WHERE until_ms IS NOT NULL;
