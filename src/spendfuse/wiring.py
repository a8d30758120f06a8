"""The entry point, and the only place that names concrete engines."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from spendfuse.cli import build
from spendfuse.cli.factories import Factories
from spendfuse.clock import SystemClock
from spendfuse.config import Config
from spendfuse.ledger.sqlite import open_sqlite
from spendfuse.ledger.sqlite_file import sqlite_has_wal_race
from spendfuse.ledger.store import Ledger, Topic
from spendfuse.server.run import ASGIApp

DRAIN_S = 3.0
"""How long the ends of reservations may take once all calls have ended; what is left then is the keeper's."""


@asynccontextmanager
async def open_ledger(config: Config) -> AsyncGenerator[Ledger]:
    """The store as commands use it: it applies no limits, and reserves nothing."""
    ledger = await open_sqlite(config.store.path, limits=None, clock=SystemClock())
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def open_app(config: Config) -> AsyncGenerator[ASGIApp]:
    """The whole gateway of one process, opened in its event loop."""
    # What only a gateway needs is imported only by one: a command starts in half the time.
    from spendfuse.gate.exchanges import served
    from spendfuse.gate.gate import Gate
    from spendfuse.gate.routes import Routes, via_of
    from spendfuse.ledger.following import Follower
    from spendfuse.ledger.keeper import Keeper
    from spendfuse.server.app import App
    from spendfuse.server.auth import Keyring
    from spendfuse.server.others import others_app
    from spendfuse.server.peers import Peers
    from spendfuse.upstream.http_client import HttpClient

    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        ledger = await open_sqlite(config.store.path, limits=config.limits, clock=clock)
        stack.push_async_callback(ledger.close)
        client = HttpClient()
        stack.push_async_callback(client.close)
        serves = served(config, clock)
        gate = Gate(
            config=config,
            routes=Routes(config, clock),
            exchanges=serves.exchanges,
            ledger=ledger,
            client=client,
            clock=clock,
        )
        stack.push_async_callback(gate.drain, DRAIN_S)
        keyring = Keyring(config.keys, ledger, new_subjects_per_hour=config.new_subjects_per_hour)
        follower = Follower(ledger, {Topic.KEYS: keyring.load, Topic.OVERRUNS: gate.overruns.load})
        await follower.refresh()
        keeper = Keeper(ledger)
        keeper.start()
        stack.push_async_callback(keeper.stop)
        await stack.enter_async_context(_running(follower.run(), gate.refusals.run()))
        yield App(
            gate=gate,
            keyring=keyring,
            dialects=serves.dialects,
            models=config.models,
            others=others_app(gate.check_ready),
            peers=Peers(config.trusted_proxies) if gate.needs_peers else None,
            body_bytes_max=config.body_bytes_max,
            via=via_of(config),
        )


def warnings_of(config: Config, workers: int) -> list[str]:
    """What is worth a warning about this machine's SQLite when so many processes serve the config."""
    if workers == 1 or not sqlite_has_wal_race(sqlite3.sqlite_version_info):
        return []
    return [
        f"SQLite {sqlite3.sqlite_version} has a rare race when several processes write and checkpoint a WAL at once; "
        "Spendfuse keeps all its commits and checkpoints under one lock, so do not write to its file by other means"
    ]


@asynccontextmanager
async def _running(*background: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run coroutines beside the body, and cancel and await them behind it."""
    tasks = [asyncio.create_task(one) for one in background]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Run the command line."""
    build(Factories(open_ledger=open_ledger, open_app=open_app, warnings=warnings_of))()


if __name__ == "__main__":
    main()
