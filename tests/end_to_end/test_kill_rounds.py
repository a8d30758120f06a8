"""`kill -9` of everything, again and again at random moments under load, on one store that is never mended by hand."""

import asyncio
import contextlib
import itertools
import os
import random
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from gateway import RunningGateway, config_text, running_gateway, wait_until
from postgres_stores import fetch, gateways, new_database
from ways import CHAT, MESSAGES, WAYS

from spendfuse.core.money import format_usd
from spendfuse.simulator.behaviour import Behaviour, LogNormal
from spendfuse.simulator.bill import BillReport
from spendfuse.simulator.process import RunningSimulator, running_simulator

ROUNDS = 20
CLIENTS = 40
MAX_TOKENS = 400
LIMIT_NANOS = 60 * MAX_TOKENS * MESSAGES.output_nanos
"""Each round's own: what its clients hold at once is half of it, and the longest rounds use it up."""
ANSWERS_MAX = 250
"""A round is ended after at most so many answers."""
AND_THEN_S_MAX = 0.05
BEHAVIOUR = Behaviour(
    latency_s=LogNormal(median=0.03, sigma=0.5),
    output_tokens=LogNormal(median=100, sigma=0.6),
    chunk_interval_s=0.004,
)
ROUND_TIMEOUT_S = 30
KEEPER_INTERVAL_S = 1.0
LEASE_S = 30.0
LEASE_ROUNDS = 5
"""On PostgreSQL the calls of the first rounds end with their owner's lease, the others' at their own deadline."""
DEADLINE_S = 4
SEED_VARIABLE = "SPENDFUSE_TEST_SEED"

Query = Callable[[str], list[tuple[int, ...]]]
"""Reads the ledger's database from outside."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over a ledger, in nano-dollars, and how many of its balances are above their limit."""

    settled: int
    reserved: int
    balances_settled: int
    balances_reserved: int
    balances_over: int


_SUMS = """
SELECT
    (SELECT coalesce(sum(cost), 0) FROM entry),
    (SELECT coalesce(sum(cost), 0) FROM reservation),
    (SELECT coalesce(sum(settled), 0) FROM balance),
    (SELECT coalesce(sum(reserved), 0) FROM balance),
    (SELECT count(*) FROM balance WHERE settled + reserved > amount)
"""
_COSTS = """
SELECT reservation_id, sum(cost)
FROM (SELECT reservation_id, cost FROM entry UNION ALL SELECT reservation_id, cost FROM reservation) AS call
GROUP BY reservation_id
"""
_OTHER_SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def read_sums(query: Query) -> Sums:
    """In one statement, so that it is one moment."""
    return Sums(*(int(value) for value in query(_SUMS)[0]))


def read_costs(query: Query) -> dict[int, int]:
    """What each call was charged or, while it is open, is held: nano-dollars by the number of its reservation."""
    return {number: int(cost) for number, cost in query(_COSTS)}


def open_reservations(query: Query) -> int:
    return query("SELECT count(*) FROM reservation")[0][0]


def overdue(query: Query) -> int:
    """How many reservations are open although a keeper should have ended them. Both clocks are this machine's."""
    before_ms = int((time.time() - KEEPER_INTERVAL_S) * 1_000)
    return query(f"SELECT count(*) FROM reservation WHERE deadline_ms < {before_ms}")[0][0]


def config_of(simulator: RunningSimulator, deadline_s: int | None = None) -> str:
    """A limit that each round has anew; with a deadline for every attempt and reservation."""
    limits = f"limits: {{round: {{usd: '{format_usd(LIMIT_NANOS)}', per: lifetime, each: run}}}}"
    text = config_text(simulator, limits=limits)
    if deadline_s is None:
        return text
    timeouts = f"connect: {deadline_s}s, first_byte: {deadline_s}s, read: {deadline_s}s, total: {deadline_s}s"
    text = text.replace(", base_url:", f", timeouts: {{{timeouts}}}, base_url:")
    return f"{text}\nreservation_deadline: {deadline_s}s\n"


class Load:
    """Clients who call without a pause until everything that they talk to is gone."""

    def __init__(self, running: list[RunningGateway], run: str) -> None:
        self._running = running
        self._headers = {**CHAT.headers, **MESSAGES.headers, "x-spendfuse-run": run}
        self._answers = 0
        self._answered = asyncio.Condition()
        self._is_killed = False

    async def until_killed(self, *, answers: int, and_then_s: float) -> None:
        """Kill everything so long after so many answers."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as session:
            clients = [asyncio.create_task(self._call_on(session, number)) for number in range(CLIENTS)]
            async with asyncio.timeout(ROUND_TIMEOUT_S), self._answered:
                await self._answered.wait_for(lambda: self._answers >= answers)
            await asyncio.sleep(and_then_s)
            self._is_killed = True
            for gateway in self._running:
                gateway.kill()
            await asyncio.gather(*clients)

    async def _call_on(self, session: aiohttp.ClientSession, number: int) -> None:
        way = WAYS[number % len(WAYS)]
        try:
            for turn in itertools.count(number):
                body = way.body("Count.", max_tokens=MAX_TOKENS, stream=(turn - number) % 2 == 0)
                url = f"{self._running[turn % len(self._running)].base_url}/{way.path}"
                async with session.post(url, json=body) as response:
                    await response.read()
                assert response.status in (200, 402, 429), response.status
                async with self._answered:
                    self._answers += 1
                    self._answered.notify_all()
        except aiohttp.ClientError:
            assert self._is_killed


def kill_in_rounds(
    simulator: RunningSimulator,
    query: Query,
    start: Callable[[int], AbstractContextManager[list[RunningGateway]]],
    *,
    end_within_s: float,
) -> None:
    """Start, load and kill on one store, and look into it each time; `start` is given the round's number.

    What the last ones have left open ends so long after another start.
    """
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(1_000_000))
    print(f"\nkilled at moments that follow from {SEED_VARIABLE}={seed}")
    moments = random.Random(seed)
    rounds_with_calls, known = 0, dict[int, int]()
    for number in range(ROUNDS):
        simulator.reset()
        with start(number) as running:
            wait_until(lambda: overdue(query) == 0, KEEPER_INTERVAL_S, "the keeper's first round is over")
            answers, and_then_s = moments.randint(0, ANSWERS_MAX), moments.uniform(0, AND_THEN_S_MAX)
            load = Load(running, f"round-{number}")
            asyncio.run(load.until_killed(answers=answers, and_then_s=and_then_s))
        bill = simulator.bill(with_records=True, wait_idle_s=5)
        before, known = known, read_costs(query)
        assert before.items() <= known.items(), "what the killed left open is charged as it was held"
        costs = [cost for call, cost in known.items() if call not in before]
        print(f"round {number}: killed {and_then_s:.3f} s after {answers} answers", end=", ")
        print(f"{bill.calls['completed']} calls done, {bill.calls['cancelled']} in flight", end=", ")
        print(f"of the limit {bill.nanos / LIMIT_NANOS:.0%} billed, {sum(costs) / LIMIT_NANOS:.0%} committed")
        check_round(bill, costs, read_sums(query))
        rounds_with_calls += bill.calls["cancelled"] > 0
    assert rounds_with_calls >= ROUNDS // 2, "the kills have to come amid calls"
    with start(ROUNDS) as running:
        wait_until(lambda: open_reservations(query) == 0, end_within_s, "no reservation is open")
        assert read_costs(query) == known
        assert read_sums(query).balances_over == 0
        assert running[0].run("audit").stdout.startswith("clean")


def check_round(bill: BillReport, costs: list[int], sums: Sums) -> None:
    """Neither a round nor any call of it is below the bill, and nothing is above a limit."""
    assert bill.nanos <= sum(costs) <= LIMIT_NANOS
    # Nothing that both sides see tells which call is which. If each has a cost of at least what was billed for it, so
    # have the dearest of either side, the second dearest, and so on.
    billed = sorted((record.cost_nanos for record in bill.records), reverse=True)
    pairs = itertools.zip_longest(billed, sorted(costs, reverse=True), fillvalue=0)
    assert all(of_bill <= of_ledger for of_bill, of_ledger in pairs)
    assert (sums.balances_settled, sums.balances_reserved) == (sums.settled, sums.reserved)
    assert sums.balances_over == 0


def test_twenty_kills_of_two_workers_on_sqlite_lose_nothing_and_never_pass_a_limit(tmp_path: Path) -> None:
    def query(statement: str) -> list[tuple[int, ...]]:
        with closing(sqlite3.connect(f"file:{tmp_path / 'spendfuse.db'}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(statement).fetchall()

    with running_simulator(BEHAVIOUR) as simulator:

        @contextlib.contextmanager
        def start(_: int) -> Generator[list[RunningGateway]]:
            with running_gateway(config_of(simulator), tmp_path, workers=2) as gateway:
                yield [gateway]

        kill_in_rounds(simulator, query, start, end_within_s=2 * KEEPER_INTERVAL_S)


def test_twenty_kills_of_two_gateways_on_postgresql_lose_nothing_and_never_pass_a_limit(
    postgres_dsn: str, tmp_path: Path
) -> None:
    store = new_database(postgres_dsn, tmp_path)

    def query(statement: str) -> list[tuple[int, ...]]:
        return [tuple(row) for row in fetch(store, statement)]

    with running_simulator(BEHAVIOUR) as simulator:

        @contextlib.contextmanager
        def start(number: int) -> Generator[list[RunningGateway]]:
            config = config_of(simulator, None if number < LEASE_ROUNDS else DEADLINE_S)
            with gateways(config, store, tmp_path, count=2) as running:
                yield running
            wait_until(lambda: query(_OTHER_SESSIONS)[0][0] == 0, 5, "the server has ended what the killed had begun")

        kill_in_rounds(simulator, query, start, end_within_s=LEASE_S + 2 * KEEPER_INTERVAL_S)
