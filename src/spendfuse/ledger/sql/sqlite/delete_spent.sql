-- A limit that is out of force is not spent.
DELETE FROM spent WHERE limit_id = ? RETURNING limit_id;
