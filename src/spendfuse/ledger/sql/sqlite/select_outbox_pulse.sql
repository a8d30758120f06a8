-- Whether there is anything to deliver or to follow, and nobody else is about it.
SELECT o.lease_until_ms <= :now_ms OR o.holder = :holder, (
    EXISTS (SELECT 1 FROM alert WHERE unrouted <> 0)
    OR EXISTS (SELECT 1 FROM delivery WHERE fate = 'pending' AND next_try_at_ms <= :now_ms)
    OR EXISTS (SELECT 1 FROM alert WHERE resolved_at_ms IS NULL AND ends_at_ms <= :now_ms)
    OR o.limits_revision <> (SELECT number FROM revision WHERE what = 'limits')
    OR o.overruns_revision <> (SELECT number FROM revision WHERE what = 'overruns')
    OR o.breaker_change_no < (SELECT coalesce(max(change_no), 0) FROM breaker_change)
) FROM outbox o;
