-- What was over so long ago that nobody asks for it, and nobody waits to be told of.
DELETE FROM alert WHERE raised_at_ms < :before_ms AND resolved_at_ms < :before_ms
    AND unrouted = 0 AND NOT EXISTS (
        SELECT 1 FROM delivery d WHERE d.alert_no = alert.alert_no AND d.fate = 'pending'
    )
RETURNING alert_no;
