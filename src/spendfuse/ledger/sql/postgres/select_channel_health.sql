-- Channels that could not take what still waits for them, or what was given up since an instant, and why.
SELECT channel, count(*) FILTER (WHERE fate = 'pending'), count(*) FILTER (WHERE fate = 'failed'), max(error)
FROM delivery
WHERE (fate = 'pending' AND error <> '') OR (fate = 'failed' AND ended_at_ms >= $1)
GROUP BY channel ORDER BY channel;
