"""How reports, the keeper and upkeep read a store of ten million entries: by index, whatever else there is.

A test can't write ten million entries in time, so the planner is made to believe in them, by the only thing that it
knows of a table's size. SQLite's plan follows from the schema and `sqlite_stat1` (it never looks at rows), so those
figures are written by hand. PostgreSQL's follows from the size of a table's file and from `reltuples / relpages`, so
some thousand entries are written, and their statistics scaled: `reltuples` is set so that the density times the true
size in pages gives ten million. That overstates what a page holds, which makes a full scan look cheaper than it is:
a plan that avoids one here avoids it in a true store. `bench.reports --explain` shows the plans of one.
"""

import re
import sqlite3
from pathlib import Path

import pytest
from ledger_harness import SqliteHarness, claim, limit
from postgres_harness import PostgresHarness, execute, raw_connection

from spendfuse.ledger.statements import sql

ENTRIES = 10_000_000
READ = ["report_spend", "report_fleeting_spend", "select_piece_end", "select_oldest_entry", "delete_entries",
        "select_positions", "fold_deleted", "roll_up", "delete_past_balances", "select_entries"]  # fmt: skip
ONLY_SQLITE = ["select_due_reservations", "select_newest_id", "select_reservations", "select_current_balances"]
ONLY_POSTGRES = ["select_due", "select_named", "select_current_balances"]
READ_BY_REPORTS = ("report_spend", "report_fleeting_spend", "select_current_balances")
BIG = ("entry", "spend", "spend_day", "reservation", "balance", "label_set")
SIZES = {"entry": ENTRIES, "spend": 1_000_000, "spend_day": 1_000_000, "reservation": 10_000, "balance": 1_000_000,
         "label_set": 40_000}  # fmt: skip


@pytest.mark.parametrize("name", READ + ONLY_SQLITE)
@claim
async def test_sqlite_reads_big_tables_by_index(name: str, tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "ledger.db")
    await (await harness.open(limit("l", 1))).close()
    connection = sqlite3.connect(harness.path)
    connection.execute("ANALYZE")
    for table, index in connection.execute("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index'").fetchall():
        if table in SIZES:
            columns = len(connection.execute(f"PRAGMA index_info('{index}')").fetchall())
            figures = " ".join([str(SIZES[table]), *["10"] * columns])
            connection.execute("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", (table, index, figures))
    connection.commit()
    connection.close()
    connection = sqlite3.connect(harness.path)
    statement = sql("sqlite", name)
    names = re.findall(r":(\w+)", statement)
    given = dict.fromkeys(names, "[]") if names else ["[]"] * statement.count("?")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
    connection.close()
    assert plan
    scanned = [line for line in plan for table in BIG if re.match(rf"SCAN {table}\b", line)]
    assert scanned == []


@pytest.mark.parametrize("name", READ + ONLY_POSTGRES)
@claim
async def test_postgres_reads_big_tables_by_index(name: str, empty_postgres: str) -> None:
    harness = PostgresHarness(empty_postgres)
    await (await harness.open(limit("l", 1))).close()
    execute(empty_postgres, _FILL)
    for table, rows in SIZES.items():
        for part in ("spend_day_fleeting", "spend_day_other") if table == "spend_day" else (table,):
            execute(empty_postgres, f"UPDATE pg_class SET reltuples = {rows} WHERE oid = 'spendfuse.{part}'::regclass")
    connection = await raw_connection(empty_postgres)
    try:
        statement = sql("postgres", name).rstrip(";")
        parameters = len(set(re.findall(r"\$(\d+)", statement)))
        # As its connection plans, for any parameters: that of reports with sequential scans allowed.
        scans = "on" if name in READ_BY_REPORTS else "off"
        await connection.execute(f"SET enable_seqscan = {scans}; SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE one AS {statement}")
        nothing = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
        plan = [line for (line,) in await connection.fetch(f"EXPLAIN EXECUTE one{nothing}")]
    finally:
        await connection.close()
    scanned = [line for line in plan for table in BIG if re.search(rf"Seq Scan on {table}", line)]
    assert scanned == [], plan


_FILL = """
SET search_path = spendfuse;
INSERT INTO label_set SELECT n, n::text::bytea, '{}' FROM generate_series(1, 1000) n;
INSERT INTO entry SELECT n, 0, 1, n * 1000, n * 1000, n % 1000, '', 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
FROM generate_series(1, 20000) n;
INSERT INTO spend SELECT n / 1000 * 900000, n % 1000, 1, 1, 1, 1, 1, 0 FROM generate_series(1, 20000) n;
INSERT INTO spend_day SELECT label, n / 1000 * 86400000, n % 1000, 1, 1, 1, 1, 1, 0
FROM generate_series(1, 20000) n, (VALUES ('user'), ('run')) l(label);
INSERT INTO reservation SELECT n, 1, n, n * 1000, 1, 1, 1, 1, n % 1000, '' FROM generate_series(1, 5000) n;
INSERT INTO balance
    (limit_id, subject, window_no, starts_at_ms, ends_at_ms, amount, ceiling, settled, reserved, overrun)
SELECT n % 10, n::text, n / 1000, n / 1000 * 86400000, n / 1000 * 86400000 + 1, 1, 1, 0, 0, 0
FROM generate_series(1, 20000) n;
ANALYZE;
"""
