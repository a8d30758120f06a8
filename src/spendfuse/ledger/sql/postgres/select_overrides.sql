-- Invariant 2: amounts that beat the config's.
SELECT limit_id, subject, amount FROM override;
