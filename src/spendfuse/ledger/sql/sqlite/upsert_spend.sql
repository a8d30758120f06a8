-- Invariant 7: the rollup moves in the transaction of its entries.
INSERT INTO spend
    (bucket_ms, label_set_id, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, calls = calls + excluded.calls, cost = cost + excluded.cost,
    input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
    estimated_cost = estimated_cost + excluded.estimated_cost;
