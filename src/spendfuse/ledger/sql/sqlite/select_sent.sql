-- The messages since an instant, by which a channel's cap is kept.
SELECT channel, ended_at_ms FROM delivery WHERE is_lead = 1 AND ended_at_ms > :since_ms
ORDER BY ended_at_ms;
