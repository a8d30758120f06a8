-- What the store promises of a commit, and whether it takes writes at all.
SELECT current_setting('fsync'), current_setting('synchronous_commit'), pg_is_in_recovery();
