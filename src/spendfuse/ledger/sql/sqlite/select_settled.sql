-- What of a spent limit is settled, for the alert that says so.
SELECT settled FROM balance WHERE limit_id = ? AND subject = ? AND window_no = ?;
