"""How long a report over a month takes on a store with ten million entries, on either database, and how it is read.

The store is filled in bulk (`history.py`) and kept up (`Ledger.upkeep`) until nothing is left to do. What every report
finds must be what was written. The first report of a label is shown by itself, as it may have to read from the disk.

    python -m bench.reports --engine both --entries 10000000 --days 30 --explain
"""

import argparse
import asyncio
import contextlib
import re
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg

from bench.history import DAY_MS, History, Totals, fill_postgres, fill_sqlite
from bench.ledger_process import open_ledger
from bench.postgres import running_postgres
from bench.table import row, title
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import Ledger, SpendRow

LABELS = ("organization", "user", "feature", "model", "key", "provider")
TOP = 100
"""What a table of `spendfuse report` shows."""
RAGGED_MS = 7 * 60_000
"""A report that begins this far behind a bucket's start reads the entries of the rest of that bucket."""
_EXPLAINED = re.compile(
    r"(report|roll_up|delete_(idle|opened|dead|past|entries)|has_"
    r"|select_(due|owner|entries|newest_id|piece|oldest|positions|current)).*"
)
"""Statements of reports, of the keeper and of upkeep, by their names."""
_PARAMETER = re.compile(r"\$(\d+)")


async def report(ledger: Ledger, history: History, totals: Totals, *, runs: int) -> None:
    """Time each report, and check it."""
    label_sets = history.label_sets()
    for label in LABELS:
        expected = totals.of(label_sets, label)
        taken_ms: list[float] = []
        for _ in range(runs + 1):
            started_s = time.perf_counter()
            spent = await ledger.spend(label, since_ms=history.since_ms, until_ms=history.until_ms)
            taken_ms.append((time.perf_counter() - started_s) * 1e3)
            assert {one.value: (one.calls, one.cost) for one in spent} == expected, label
        first_ms, *others_ms = taken_ms
        row(f"by {label}, {len(expected):,} values", others_ms, "ms", more=f"the first {first_ms:,.0f}")
    ragged = history.since_ms + RAGGED_MS, history.until_ms - RAGGED_MS
    for label in ("user", "run"):
        spans = {"": (history.since_ms, history.until_ms)} if label == "run" else {}
        for more, (since_ms, until_ms) in {**spans, ", not from midnight to midnight": ragged}.items():
            taken_ms, spent = [], list[SpendRow]()
            for _ in range(runs):
                started_s = time.perf_counter()
                spent = list(await ledger.spend(label, since_ms=since_ms, until_ms=until_ms, top=TOP))
                taken_ms.append((time.perf_counter() - started_s) * 1e3)
            assert more or sum(one.calls for one in spent) == history.entries
            row(f"by {label}, {sum(one.values for one in spent):,} values{more}", taken_ms, "ms")


async def keep_up(store: str, *, runs: int) -> None:
    """Do all upkeep that is due, keeping every entry, and look for what has expired."""
    ledger = await open_ledger(store, ())
    try:
        started_s, pieces_ms = time.perf_counter(), list[float]()
        is_more = True
        while is_more:
            piece_s = time.perf_counter()
            is_more = await ledger.upkeep(None)
            pieces_ms.append((time.perf_counter() - piece_s) * 1e3)
        more = f"{len(pieces_ms)} pieces, the longest {max(pieces_ms):,.0f} ms"
        row("upkeep until nothing is left", [time.perf_counter() - started_s], "s", digits=1, more=more)
        rounds_ms: list[float] = []
        for _ in range(runs):
            round_s = time.perf_counter()
            assert not await ledger.expire_due()
            rounds_ms.append((time.perf_counter() - round_s) * 1e3)
        row("a round of the keeper", rounds_ms, "ms", digits=1)
    finally:
        await ledger.close()


async def measure(store: str, history: History, totals: Totals, *, runs: int) -> None:
    """Keep a filled store up, and report from it."""
    await keep_up(store, runs=runs)
    ledger = await open_ledger(store, None)
    try:
        await report(ledger, history, totals, runs=runs)
    finally:
        await ledger.close()


def measure_sqlite(folder: Path, history: History, *, runs: int, is_explained: bool) -> None:
    """Fill, measure and explain a store in a file."""
    title(_heading("SQLite", history))
    path = folder / "reports.db"
    asyncio.run(_make(str(path)))
    started_s = time.perf_counter()
    totals = fill_sqlite(path, history)
    more = f"{path.stat().st_size / 1e9:.1f} GB"
    row("filled", [time.perf_counter() - started_s], "s", digits=1, more=more)
    asyncio.run(measure(str(path), history, totals, runs=runs))
    if is_explained:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for name, statement in _statements("sqlite"):
                given = [0] * statement.count("?") or _Anything(int)
                plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", given).fetchall()
                _print_plan(name, [detail for *_, detail in plan])


async def measure_postgres(dsn: str, history: History, *, runs: int, is_explained: bool) -> None:
    """Fill, measure and explain a store on a server."""
    title(_heading("PostgreSQL", history))
    await _make(dsn)
    started_s = time.perf_counter()
    totals = await fill_postgres(dsn, history)
    taken_s = time.perf_counter() - started_s
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "spendfuse", "jit": "off"})
    try:
        stored = await connection.fetchval("SELECT pg_database_size(current_database())")
        row("filled", [taken_s], "s", digits=1, more=f"{stored / 1e9:.1f} GB")
        await measure(dsn, history, totals, runs=runs)
        if is_explained:
            for name, statement in _statements("postgres"):
                _print_plan(name, await _plan(connection, statement, history))
    finally:
        await connection.close()


async def _plan(connection: Any, statement: str, history: History) -> list[str]:
    """The plan of a report over the history's own time, or of another statement for whatever parameters."""
    parameters = {int(number) for number in _PARAMETER.findall(statement)}
    given = ["NULL"] * len(parameters)
    scans, mode = "off", "force_generic_plan"
    if "$1::text" in statement:
        # A report; its connection plans it with full scans allowed.
        spans = [f"'{{{one}}}'" for one in (history.since_ms, history.since_ms + RAGGED_MS)]
        given = ["'user'", str(history.since_ms), str(history.until_ms), *spans, *spans][: len(parameters)]
        scans, mode = "on", "auto"
    await connection.execute(f"SET enable_seqscan = {scans}; SET plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE explained AS {statement}")
    plan = await connection.fetch(f"EXPLAIN EXECUTE explained{'(' + ', '.join(given) + ')' if given else ''}")
    await connection.execute("DEALLOCATE explained")
    return [line for (line,) in plan]


class _Anything(defaultdict[str, int]):
    """A value for every named parameter."""


def _statements(engine: str) -> Iterator[tuple[str, str]]:
    for file in sorted(files("spendfuse.ledger").joinpath("sql", engine).iterdir(), key=lambda one: one.name):
        name = file.name.removesuffix(".sql")
        if _EXPLAINED.fullmatch(name):
            yield name, sql(engine, name).rstrip(";")


def _print_plan(name: str, lines: list[str]) -> None:
    print(f"  {name}", *lines, sep="\n      ", flush=True)


def _heading(engine: str, history: History) -> str:
    return f"Reports on {engine}: {history.entries:,} entries of {history.users:,} users in {history.days} days"


async def _make(store: str) -> None:
    """The schema, and nothing in it."""
    await (await open_ledger(store, None)).close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--users", type=int, default=3_333)
    parser.add_argument("--session-calls", type=int, default=10, help="of one label set within a quarter of an hour")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--explain", action="store_true", help="show how reports and the keeper read the store")
    options = parser.parse_args()
    until_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    history = History(options.entries, options.days, options.users, until_ms, options.session_calls)
    if options.engine != "postgres":
        with tempfile.TemporaryDirectory() as folder:
            measure_sqlite(Path(folder), history, runs=options.runs, is_explained=options.explain)
    if options.engine != "sqlite":
        with running_postgres() as postgres:
            asyncio.run(measure_postgres(postgres.dsn, history, runs=options.runs, is_explained=options.explain))


if __name__ == "__main__":
    main()
