-- How far what alerts come from has been followed.
UPDATE outbox SET limits_revision = $1, overruns_revision = $2,
    breaker_change_no = $3;
