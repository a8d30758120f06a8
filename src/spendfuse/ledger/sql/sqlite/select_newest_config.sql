-- Invariant 2: only the newest limits admit.
SELECT config_no, hash FROM config ORDER BY config_no DESC LIMIT 1;
