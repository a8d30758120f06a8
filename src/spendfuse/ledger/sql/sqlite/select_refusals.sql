-- What was refused in a span of time, by reason, limit, feature and user, the most refused first.
SELECT code, limit_name, feature, "user", sum(count)
FROM refusal WHERE shadow = 0 AND hour_ms >= :since_ms AND hour_ms < :until_ms
GROUP BY code, limit_name, feature, "user" ORDER BY sum(count) DESC, code, limit_name, feature, "user";
