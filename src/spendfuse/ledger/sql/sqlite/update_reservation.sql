-- Invariant 4: what an extension holds, written in the transaction that moved the balances.
UPDATE reservation SET cap = ?, cost = ?, input_tokens = ?, output_tokens = ?, deadline_ms = ? WHERE reservation_id = ?;
