-- Invariant 8: adds what a quarter of an hour lacks of its entries; less, where it has too much.
INSERT INTO spend AS s (bucket_ms, label_set_id, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (bucket_ms, label_set_id) DO UPDATE SET
    requests = s.requests + excluded.requests, calls = s.calls + excluded.calls, cost = s.cost + excluded.cost,
    input_tokens = s.input_tokens + excluded.input_tokens, output_tokens = s.output_tokens + excluded.output_tokens,
    estimated_cost = s.estimated_cost + excluded.estimated_cost;
