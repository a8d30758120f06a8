"""The store away, while the gateway serves: refused within a bound, nothing lost, and back without a restart."""

import asyncio
import json
import resource
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from gateway import STOP_TIMEOUT_S, RunningGateway, config_text, running_gateway, wait_until
from postgres_server import KillableServer, killable_server
from postgres_stores import fetch, gateways
from ways import WAYS

from spendfuse.ledger.batching import STORE_TIMEOUT_S
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

CLIENTS = 24
LATENCY_S = 0.4
KNOWN_WITHIN_S = 5.0
"""A server that is gone shows at the keeper's next round, on a machine that does other things too."""
BOUND_S = STORE_TIMEOUT_S + 3.0
AT_ONCE_S = 2.0
"""Milliseconds, on a machine that does nothing else."""
BACK_WITHIN_S = 15.0
LIMITS = "limits: {company: {usd: 1000, per: month}, rate: {requests: 100_000, per: minute}}"
RATE_ONLY = "limits: {rate: {requests: 1000, per: hour, on_store_down: admit}}"
UNRESERVED_HEADER = "x-spendfuse-unreserved"


@pytest.fixture
def server() -> Generator[KillableServer]:
    with killable_server() as server:
        yield server


@dataclass(frozen=True, slots=True)
class Answered:
    """One call as its client saw it."""

    began_at: float
    took_s: float
    status: int
    code: str | None
    unreserved: str | None = None


async def call(session: aiohttp.ClientSession, gateway: RunningGateway, number: int = 0) -> Answered:
    """One call to its end: of each way, streamed and not."""
    way = WAYS[number % len(WAYS)]
    body = way.body("Count.", max_tokens=100, stream=number % 2 == 0)
    began_at = time.monotonic()
    async with session.post(f"{gateway.base_url}/{way.path}", json=body, headers=way.headers) as response:
        content = await response.read()
        code = None if response.status == 200 else json.loads(content)["error"]["code"]
        header = response.headers.get(UNRESERVED_HEADER)
    return Answered(began_at, time.monotonic() - began_at, response.status, code, header)


def call_once(gateway: RunningGateway) -> Answered:
    """One call, from outside of any event loop."""

    async def run() -> Answered:
        async with aiohttp.ClientSession() as session:
            return await call(session, gateway)

    return asyncio.run(run())


class Load:
    """Clients who call without a pause, whatever they are told, until they are told to end."""

    def __init__(self, running: list[RunningGateway]) -> None:
        self._running = running
        self._is_over = False
        self.answered: list[Answered] = []

    async def _call_on(self, session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while not self._is_over:
            answered = await call(session, self._running[turn % len(self._running)], turn)
            self.answered.append(answered)
            turn += 1
            if answered.status != 200:
                await asyncio.sleep(0.05)

    async def during(self, meanwhile: Callable[[], None]) -> None:
        """Call while something else happens, on a thread."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = [asyncio.create_task(self._call_on(session, number)) for number in range(CLIENTS)]
            await asyncio.to_thread(meanwhile)
            self._is_over = True
            await asyncio.gather(*clients)


def readiness(gateway: RunningGateway) -> tuple[int, str]:
    """The status of `/health/ready`, and its reason."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/health/ready", timeout=2) as response:
            return response.status, json.load(response).get("reason", "")
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["reason"]


def wait_until_red(running: list[RunningGateway], within_s: float) -> None:
    for gateway in running:
        wait_until(lambda gateway=gateway: readiness(gateway)[0] == 503, within_s, "readiness is red")


def wait_until_green(running: list[RunningGateway]) -> None:
    for gateway in running:
        wait_until(lambda gateway=gateway: readiness(gateway)[0] == 200, BACK_WITHIN_S, "readiness is green")


def calls_of(simulator: RunningSimulator) -> int:
    """How many calls ever came to the provider."""
    return sum(simulator.bill().calls.values())


def spool_files(gateway: RunningGateway) -> list[Path]:
    """What waits beside a gateway's config or database."""
    return sorted(gateway.config.parent.glob("*.spool/*"))


def spooled_lines(gateway: RunningGateway) -> int:
    """How many ends wait there."""
    return sum(len(file.read_bytes().splitlines()) - 1 for file in spool_files(gateway))


def settled_and_held(store: str) -> tuple[int, int, int]:
    """On PostgreSQL: nano-dollars of all entries and of all open reservations, and how many are open."""
    query = (
        "SELECT (SELECT coalesce(sum(cost), 0)::bigint FROM entry),"
        " (SELECT coalesce(sum(cost), 0)::bigint FROM reservation), (SELECT count(*) FROM reservation)"
    )
    settled, held, number = fetch(store, query)[0]
    return settled, held, number


def check_exact(store: str, simulator: RunningSimulator, running: list[RunningGateway]) -> None:
    """Nothing is open any more, the ledger is the bill to the nano-dollar, and no spool holds anything."""
    wait_until(lambda: settled_and_held(store)[2] == 0, BACK_WITHIN_S, "no reservation is open")
    for gateway in running:
        wait_until(lambda gateway=gateway: not spool_files(gateway), BACK_WITHIN_S, "the spool is empty")
    assert settled_and_held(store)[0] == simulator.bill(wait_idle_s=5).nanos > 0
    assert running[0].run("audit").stdout.startswith("clean")


def test_postgresql_killed_and_restarted_in_the_middle_of_load_loses_nothing(
    server: KillableServer, tmp_path: Path
) -> None:
    """Invariants 7 and 13."""
    with (
        running_simulator(Behaviour(latency_s=LATENCY_S, output_tokens=60)) as simulator,
        gateways(config_text(simulator, limits=LIMITS), server.dsn, tmp_path, count=2) as running,
    ):
        known_at = back_at = 0.0

        def kill_and_restart() -> None:
            nonlocal known_at, back_at
            wait_until(lambda: simulator.bill().calls.get("completed", 0) > 2 * CLIENTS, 20, "the load is on")
            server.kill()
            wait_until_red(running, KNOWN_WITHIN_S)
            known_at = time.monotonic()
            wait_until(lambda: simulator.bill().calls.get("running", 0) == 0, 10, "what was in flight has ended")
            calls_before = calls_of(simulator)
            wait_until(lambda: sum(map(spooled_lines, running)) > 0, 10, "settles wait on disk")
            refused_before = len(load.answered)
            wait_until(lambda: len(load.answered) > refused_before + 4 * CLIENTS, 10, "calls are refused")
            assert calls_of(simulator) == calls_before, "no call is admitted"
            back_at = time.monotonic()
            server.restart()
            settled, held, _ = settled_and_held(server.dsn)
            assert settled + held >= simulator.bill().nanos, "never below the bill"
            wait_until_green(running)
            calls_before = calls_of(simulator)
            wait_until(lambda: calls_of(simulator) > calls_before + CLIENTS, 10, "calls are served again")

        load = Load(running)
        asyncio.run(load.during(kill_and_restart))
        assert {(one.status, one.code) for one in load.answered} == {(200, None), (503, "store_unavailable")}
        refused = [one for one in load.answered if one.status == 503]
        assert max(one.took_s for one in refused) < BOUND_S
        known = [one for one in refused if known_at < one.began_at < back_at]
        assert known and max(one.took_s for one in known) < AT_ONCE_S
        check_exact(server.dsn, simulator, running)
        assert len([one for one in load.answered if one.status == 200]) == simulator.bill().calls["completed"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_gateway_that_ends_during_the_outage_leaves_its_charges_to_the_next_one(
    server: KillableServer, tmp_path: Path, end: signal.Signals
) -> None:
    async def calls_around_the_kill(gateway: RunningGateway, simulator: RunningSimulator) -> list[Answered]:
        async with aiohttp.ClientSession() as session:
            calls = [asyncio.create_task(call(session, gateway, number)) for number in range(CLIENTS)]
            async with asyncio.timeout(10):
                while simulator.bill().calls.get("running", 0) < CLIENTS:
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(server.kill)
            return await asyncio.gather(*calls)

    with running_simulator(Behaviour(latency_s=2.0, output_tokens=60)) as simulator:
        config = config_text(simulator, limits=LIMITS)
        with gateways(config, server.dsn, tmp_path, count=1) as running:
            answered = asyncio.run(calls_around_the_kill(running[0], simulator))
            assert {one.status for one in answered} == {200}, "the clients in flight get their answers"
            wait_until(lambda: spooled_lines(running[0]) == CLIENTS, 10, "all settles are on disk")
            running[0].process.send_signal(end)
            assert running[0].process.wait(STOP_TIMEOUT_S) == (0 if end is signal.SIGTERM else -end)
        server.restart()
        settled, held, number = settled_and_held(server.dsn)
        assert (settled, number) == (0, CLIENTS) and held > simulator.bill().nanos
        with gateways(config, server.dsn, tmp_path, count=1) as running:
            check_exact(server.dsn, simulator, running)


def test_a_postgresql_that_hangs_refuses_calls_within_the_bound_and_then_at_once(
    server: KillableServer, tmp_path: Path
) -> None:
    with (
        running_simulator(Behaviour(output_tokens=60)) as simulator,
        gateways(config_text(simulator, limits=LIMITS), server.dsn, tmp_path, count=1) as running,
    ):
        assert call_once(running[0]).status == 200
        with server.frozen():
            first = call_once(running[0])
            assert (first.status, first.code) == (503, "store_unavailable") and first.took_s < BOUND_S
            wait_until_red(running, KNOWN_WITHIN_S)
            for _ in range(3):
                refused = call_once(running[0])
                assert refused.code == "store_unavailable" and refused.took_s < AT_ONCE_S
            assert calls_of(simulator) == 1
        wait_until_green(running)
        assert call_once(running[0]).status == 200
        check_exact(server.dsn, simulator, running)


def test_calls_whose_limits_all_allow_it_are_served_during_an_outage_and_their_cost_comes_later(
    server: KillableServer, tmp_path: Path
) -> None:
    """Also where the gateway dies meanwhile: a call that it had begun counts at its quote."""
    with running_simulator(Behaviour(output_tokens=60)) as simulator:
        config = config_text(simulator, limits=RATE_ONLY)
        with gateways(config, server.dsn, tmp_path, count=1) as running:
            assert call_once(running[0]).unreserved is None
            server.kill()
            wait_until_red(running, KNOWN_WITHIN_S)
            answered = [call_once(running[0]) for _ in range(3)]
            assert [(one.status, one.unreserved) for one in answered] == [(200, "store-down")] * 3
            billed = simulator.bill(wait_idle_s=5).nanos
            simulator.set_behaviour(Behaviour(output_tokens=60, latency_s=20))
            asyncio.run(_kill_amid_a_call(running[0], simulator))
        server.restart()
        simulator.set_behaviour(Behaviour(output_tokens=60))
        with gateways(config, server.dsn, tmp_path, count=1) as running:
            wait_until(lambda: not spool_files(running[0]), BACK_WITHIN_S, "the spool is empty")
            quoted = [row[0] for row in fetch(server.dsn, "SELECT cost FROM entry WHERE is_estimated = 1")]
            settled, held, _ = settled_and_held(server.dsn)
            assert len(quoted) == 1 and quoted[0] > 0
            assert (settled - quoted[0], held) == (billed, 0)
            assert running[0].run("audit").stdout.startswith("clean")


async def _kill_amid_a_call(gateway: RunningGateway, simulator: RunningSimulator) -> None:
    async with aiohttp.ClientSession() as session:
        lost = asyncio.create_task(call(session, gateway))
        async with asyncio.timeout(10):
            while simulator.bill().calls.get("running", 0) == 0:
                await asyncio.sleep(0.02)
        gateway.kill()
        with pytest.raises(aiohttp.ClientError):
            await lost


@contextmanager
def serving_on_sqlite(tmp_path: Path) -> Generator[tuple[RunningGateway, RunningSimulator]]:
    """A gateway of one process on a file, with one call served and settled."""
    with (
        running_simulator(Behaviour(output_tokens=60)) as simulator,
        running_gateway(config_text(simulator, limits=LIMITS), tmp_path) as gateway,
    ):
        assert call_once(gateway).status == 200
        wait_until(lambda: gateway.totals().open_reservations == 0, 5, "the first call is settled")
        yield gateway, simulator


async def _outlast(
    gateway: RunningGateway, simulator: RunningSimulator, take_away: Callable[[], None]
) -> list[Answered]:
    """A call in flight when the store goes away, one that finds it out, and one that comes when that is known."""
    simulator.set_behaviour(Behaviour(output_tokens=60, latency_s=1))
    async with aiohttp.ClientSession() as session:
        in_flight = asyncio.create_task(call(session, gateway))
        async with asyncio.timeout(10):
            while simulator.bill().calls.get("running", 0) == 0:
                await asyncio.sleep(0.02)
        take_away()
        first = await call(session, gateway)
        await asyncio.to_thread(wait_until_red, [gateway], BOUND_S)
        return [await in_flight, first, await call(session, gateway)]


def check_outlasted(answered: list[Answered]) -> None:
    in_flight, first, known = answered
    assert in_flight.status == 200
    assert (first.code, known.code) == ("store_unavailable", "store_unavailable")
    assert first.took_s < BOUND_S and known.took_s < AT_ONCE_S


def check_exact_on_sqlite(gateway: RunningGateway, simulator: RunningSimulator) -> None:
    wait_until_green([gateway])
    wait_until(lambda: gateway.totals().open_reservations == 0, BACK_WITHIN_S, "no reservation is open")
    wait_until(lambda: not spool_files(gateway), BACK_WITHIN_S, "the spool is empty")
    assert gateway.totals().settled == simulator.bill(wait_idle_s=5).nanos
    simulator.set_behaviour(Behaviour(output_tokens=60))
    assert call_once(gateway).status == 200
    assert gateway.run("audit").stdout.startswith("clean")


def test_a_sqlite_file_that_another_program_locks_refuses_calls_within_the_bound(tmp_path: Path) -> None:
    with serving_on_sqlite(tmp_path) as (gateway, simulator):
        with closing(sqlite3.connect(gateway.database, isolation_level=None)) as other:
            answered = asyncio.run(_outlast(gateway, simulator, lambda: other.execute("BEGIN EXCLUSIVE").close()))
            check_outlasted(answered)
            wait_until(lambda: spooled_lines(gateway) == 1, 10, "the settle waits on disk")
            other.execute("ROLLBACK")
        check_exact_on_sqlite(gateway, simulator)


@pytest.mark.parametrize("spool_bytes", [4_096, 0], ids=["with room for the spool", "with room for nothing"])
def test_a_full_disk_refuses_calls_and_loses_no_charge(tmp_path: Path, spool_bytes: int) -> None:
    """No file of the gateway may be written beyond so many bytes, which its database has."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with serving_on_sqlite(tmp_path) as (gateway, simulator):

        def fill() -> None:
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (spool_bytes, resource.RLIM_INFINITY))

        check_outlasted(asyncio.run(_outlast(gateway, simulator, fill)))
        if spool_bytes:
            wait_until(lambda: spooled_lines(gateway) == 1, 10, "the settle waits on disk")
        assert gateway.totals().open_reservations == 1
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, unlimited)
        check_exact_on_sqlite(gateway, simulator)
