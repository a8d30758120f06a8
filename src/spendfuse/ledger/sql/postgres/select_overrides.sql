-- Invariant 2: amounts that beat the config's.
SELECT limit_id, subject, amount, until_ms FROM override;
