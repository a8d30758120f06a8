-- Invariant 8: a balance keeps what its entries have settled when they are deleted.
UPDATE balance b SET carried = b.carried + x.amount
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[]) AS x(amount, limit_id, subject, window_no)
WHERE b.limit_id = x.limit_id AND b.subject = x.subject AND b.window_no = x.window_no;
