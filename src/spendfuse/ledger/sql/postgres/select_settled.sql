-- What of a spent limit is settled, for the alert that says so.
SELECT settled FROM balance WHERE limit_id = $1 AND subject = $2 AND window_no = $3;
