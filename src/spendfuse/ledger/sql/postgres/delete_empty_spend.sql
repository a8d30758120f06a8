-- Invariant 8: a quarter of an hour without entries has no row.
DELETE FROM spend WHERE bucket_ms = $1 AND label_set_id = $2 AND requests = 0;
