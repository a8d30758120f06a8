-- Channels that could not take what still waits for them, and why.
SELECT channel, count(*), max(error)
FROM delivery
WHERE fate = 'pending' AND error <> ''
GROUP BY channel ORDER BY channel;
