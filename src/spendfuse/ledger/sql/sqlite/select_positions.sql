-- Up to when entries are in spend_day, and up to when retention has deleted them.
SELECT until_ms, horizon_ms FROM rolled_up, retention;
