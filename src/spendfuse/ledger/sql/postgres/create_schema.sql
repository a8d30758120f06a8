-- What every migration is noted in.
CREATE SCHEMA IF NOT EXISTS spendfuse;
CREATE TABLE spendfuse.migration (
    number bigint PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
