-- Invariant 8: adds what a day lacks of its entries; less, where it has too much.
INSERT INTO spend_day (label, day_ms, value, requests, calls, cost, input_tokens, output_tokens, estimated_cost)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, calls = calls + excluded.calls, cost = cost + excluded.cost,
    input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
    estimated_cost = estimated_cost + excluded.estimated_cost;
