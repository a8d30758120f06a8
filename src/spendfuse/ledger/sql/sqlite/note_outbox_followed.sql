-- How far what alerts come from has been followed.
UPDATE outbox SET limits_revision = :limits, overruns_revision = :overruns,
    breaker_change_no = :breaker_change_no;
