-- Of alerts that are gone.
DELETE FROM delivery WHERE alert_no IN (SELECT value FROM json_each(:numbers));
