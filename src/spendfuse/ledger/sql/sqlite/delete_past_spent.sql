-- A limit is no longer spent once its window has turned; kept for a while, for whoever tells of the end.
DELETE FROM spent WHERE ends_at_ms <= ?;
