-- Which channels are told has been said; what was found out meanwhile is kept, so that every try says the same.
UPDATE alert SET unrouted = unrouted & ~$1::bigint, details = coalesce($2, details)
WHERE alert_no = $3;
