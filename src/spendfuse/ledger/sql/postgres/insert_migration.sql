-- Noted in the transaction that applies it.
INSERT INTO migration (number, name) VALUES ($1, $2);
