-- Invariant 8: adds what a day lacks of its entries; less, where it has too much.
INSERT INTO spend_day AS s (label, day_ms, value, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (label, day_ms, value) DO UPDATE SET
    requests = s.requests + excluded.requests, calls = s.calls + excluded.calls, cost = s.cost + excluded.cost,
    input_tokens = s.input_tokens + excluded.input_tokens, output_tokens = s.output_tokens + excluded.output_tokens,
    estimated_cost = s.estimated_cost + excluded.estimated_cost;
