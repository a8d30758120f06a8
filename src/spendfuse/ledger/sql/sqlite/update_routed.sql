-- Which channels are told has been said; what was found out meanwhile is kept, so that every try says the same.
UPDATE alert SET unrouted = unrouted & ~:unrouted_bit, details = coalesce(:details, details)
WHERE alert_no = :number;
