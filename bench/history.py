"""A store with a history: entries of many days, as calls would have left them, written in bulk.

Users make calls in sessions: several of one feature and model within a quarter of an hour, more of them by day than by
night. Each session is a run of its own. Entries, label sets and the quarter-hour rollup agree, as the ledger's own
transactions would have kept them. There are no limits, so no balances.
"""

import contextlib
import hashlib
import itertools
import math
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from spendfuse.core.reservations import CallIds, EntryKind, reservation_of
from spendfuse.ledger.folding import BUCKET_MS
from spendfuse.ledger.rows import attribution_of

DAY_MS = 86_400_000
ORGANIZATIONS, FEATURES, MODELS, KEYS = 20, 30, 12, 5
FEATURES_OF_USER, MODELS_OF_USER = 4, 3
PROVIDERS = ("openai", "anthropic", "local")
ESTIMATED_SHARE = 0.01
_OWNER_ID = 1
_QUARTERS_AT_ONCE = 24

ENTRY_COLUMNS = (
    "reservation_id",
    "is_late",
    "kind",
    "reserved_at_ms",
    "written_at_ms",
    "label_set_id",
    "fleeting",
    "calls",
    "cost",
    "input_tokens",
    "output_tokens",
    "held_cost",
    "held_input_tokens",
    "held_output_tokens",
    "is_estimated",
    "estimated_cost",
    "overrun_cost",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_long_tokens",
    "input_audio_tokens",
    "cache_read_audio_tokens",
    "output_audio_tokens",
    "reasoning_tokens",
)
SPEND_COLUMNS = (
    "bucket_ms",
    "label_set_id",
    "requests",
    "calls",
    "cost",
    "input_tokens",
    "output_tokens",
    "estimated_cost",
)
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class History:
    """How much there is, and of how many; the same each time. It ends at `until_ms`, a midnight.

    `session_calls` are the calls of a session: with 1, the rollup has hardly fewer rows than there are entries.
    """

    entries: int
    days: int
    users: int
    until_ms: int
    session_calls: int = 10

    @property
    def since_ms(self) -> int:
        """When the first call may have been made."""
        return self.until_ms - self.days * DAY_MS

    def label_sets(self) -> list[dict[str, str]]:
        """The labels of all calls: `FEATURES_OF_USER` by `MODELS_OF_USER` for each user, one user behind the other."""
        seeded = random.Random(1)
        found: list[dict[str, str]] = []
        for user in range(self.users):
            features = seeded.sample(range(FEATURES), FEATURES_OF_USER)
            models = seeded.sample(range(MODELS), MODELS_OF_USER)
            found += [
                {
                    "organization": f"org{user % ORGANIZATIONS}",
                    "user": f"user{user}",
                    "key": f"key{user % KEYS}",
                    "feature": f"feature{feature}",
                    "model": f"model{model}",
                    "provider": PROVIDERS[model % len(PROVIDERS)],
                }
                for feature, model in itertools.product(features, models)
            ]
        return found


@dataclass(slots=True)
class Quarter:
    """What was written in one bucket, in the order of the keys of the tables."""

    entries: list[Row] = field(default_factory=list[Row])
    spend: list[Row] = field(default_factory=list[Row])


@dataclass(slots=True)
class Totals:
    """What reports must find: calls and cost, by label set."""

    calls: list[int]
    cost: list[int]

    def of(self, label_sets: Sequence[dict[str, str]], label: str) -> dict[str, tuple[int, int]]:
        """Calls and cost by the values of a label."""
        found: dict[str, tuple[int, int]] = {}
        for labels, calls, cost in zip(label_sets, self.calls, self.cost, strict=True):
            if calls:
                before = found.get(labels[label], (0, 0))
                found[labels[label]] = (before[0] + calls, before[1] + cost)
        return found


def quarters(history: History, totals: Totals) -> Iterator[Quarter]:
    """The history, bucket by bucket; what it adds up to is added to `totals`."""
    seeded, ids = random.Random(2), CallIds()
    buckets = history.days * DAY_MS // BUCKET_MS
    # By day three times as many as by night.
    weights = [2 + math.sin(2 * math.pi * number * BUCKET_MS / DAY_MS - math.pi / 2) for number in range(buckets)]
    until = [round(history.entries * share / sum(weights)) for share in itertools.accumulate(weights)]
    for number, (written, due) in enumerate(itertools.pairwise([0, *until])):
        entries = due - written
        sessions = -(-entries // history.session_calls)
        starts_ms = history.since_ms + number * BUCKET_MS
        yield _quarter(starts_ms, entries, sessions, seeded=seeded, ids=ids, totals=totals)


def _quarter(
    bucket_ms: int, entries: int, sessions: int, *, seeded: random.Random, ids: CallIds, totals: Totals
) -> Quarter:
    label_sets, uniform = len(totals.calls), seeded.random
    # A run is named by its bucket and its place in it.
    bucket_no = bucket_ms // BUCKET_MS
    parts = [(int(uniform() * label_sets), f'{{"run":"run-{bucket_no}-{place}"}}') for place in range(sessions)]
    # No later than the last millisecond that leaves room for ids, which borrow from the next one when it is full.
    times_ms = sorted(bucket_ms + int(uniform() * (BUCKET_MS - 1_000)) for _ in range(entries))
    quarter = Quarter()
    sums: dict[int, list[int]] = {}
    for at_ms, (number, fleeting) in zip(times_ms, itertools.cycle(parts), strict=False):
        input_tokens, output_tokens = 200 + int(uniform() * 4_000), 20 + int(uniform() * 800)
        cost = input_tokens * 150 + output_tokens * 600
        is_estimated = uniform() < ESTIMATED_SHARE
        estimated_cost = cost if is_estimated else 0
        reservation_id = reservation_of(ids.mint(at_ms, _OWNER_ID), 1)
        held = (cost + 600 * 400, input_tokens + 300, output_tokens + 400)
        counted = (1, cost, input_tokens, output_tokens)
        flags = (int(is_estimated), estimated_cost, 0)
        key = (reservation_id, 0, int(EntryKind.SETTLED), at_ms, at_ms + 1_500, number + 1, fleeting)
        quarter.entries.append((*key, *counted, *held, *flags, 0, 0, 0, 0, 0, 0, 0))
        more = (1, *counted, estimated_cost)
        known = sums.get(number)
        sums[number] = list(more) if known is None else [a + b for a, b in zip(known, more, strict=True)]
    for number, (_, calls, cost, *_) in sums.items():
        totals.calls[number] += calls
        totals.cost[number] += cost
    quarter.spend = [(bucket_ms, number + 1, *sums[number]) for number in sorted(sums)]
    return quarter


def label_set_rows(label_sets: Sequence[dict[str, str]]) -> list[tuple[int, bytes, str]]:
    """Number, digest and labels as stored."""
    texts = [attribution_of(labels).stored for labels in label_sets]
    return [(number, hashlib.sha256(text.encode()).digest(), text) for number, text in enumerate(texts, 1)]


def fill_sqlite(path: Path, history: History) -> Totals:
    """Fill a store that has its schema and nothing else."""
    label_sets = history.label_sets()
    totals = Totals([0] * len(label_sets), [0] * len(label_sets))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nothing has to survive a crash of this.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        rows = [(number, text) for number, _, text in label_set_rows(label_sets)]
        connection.executemany("INSERT INTO label_set (label_set_id, labels) VALUES (?, ?)", rows)
        insert_entry, insert_spend = _insert("entry", ENTRY_COLUMNS), _insert("spend", SPEND_COLUMNS)
        for number, quarter in enumerate(quarters(history, totals), 1):
            connection.executemany(insert_entry, quarter.entries)
            connection.executemany(insert_spend, quarter.spend)
            if number % _QUARTERS_AT_ONCE == 0:
                # The log is kept small.
                connection.execute("COMMIT")
                connection.execute("BEGIN")
        connection.execute("COMMIT")
    return totals


async def fill_postgres(dsn: str, history: History) -> Totals:
    """Fill a store that has its schema and nothing else, by COPY; then do what autovacuum would have done by now."""
    label_sets = history.label_sets()
    totals = Totals([0] * len(label_sets), [0] * len(label_sets))
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "spendfuse", "synchronous_commit": "off"})
    try:
        columns = ["label_set_id", "digest", "labels"]
        await connection.copy_records_to_table("label_set", records=label_set_rows(label_sets), columns=columns)
        await connection.execute(f"SELECT setval('label_set_number', {len(label_sets)})")
        several = quarters(history, totals)
        while some := list(itertools.islice(several, _QUARTERS_AT_ONCE)):
            entries = itertools.chain.from_iterable(quarter.entries for quarter in some)
            await connection.copy_records_to_table("entry", records=entries, columns=ENTRY_COLUMNS)
            spend = itertools.chain.from_iterable(quarter.spend for quarter in some)
            await connection.copy_records_to_table("spend", records=spend, columns=SPEND_COLUMNS)
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()
    return totals


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
