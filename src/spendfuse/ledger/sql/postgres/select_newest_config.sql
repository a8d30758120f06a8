-- Invariant 2: only the newest limits admit.
SELECT hash FROM config ORDER BY config_no DESC LIMIT 1;
