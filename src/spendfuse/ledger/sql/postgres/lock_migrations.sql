-- One process at a time brings the schema up to date.
SELECT pg_advisory_xact_lock(6019321484172885094);
