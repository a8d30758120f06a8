-- What was counted before a breaker closed does not count any more.
DELETE FROM breaker_count WHERE breaker = ? AND subject = ?;
