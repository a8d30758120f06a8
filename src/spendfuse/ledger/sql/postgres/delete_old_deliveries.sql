-- Of alerts that are gone.
DELETE FROM delivery WHERE alert_no = ANY ($1::bigint[]);
