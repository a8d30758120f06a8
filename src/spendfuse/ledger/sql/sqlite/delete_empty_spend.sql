-- Invariant 8: a quarter of an hour without entries has no row.
DELETE FROM spend WHERE bucket_ms = ? AND label_set_id = ? AND requests = 0;
