"""The entry point, and the only place that names concrete engines."""

import asyncio
import contextlib
import logging
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spendfuse.cli import build
from spendfuse.cli.factories import Factories, GatewayApp
from spendfuse.clock import Clock, SystemClock
from spendfuse.config import Config, PostgresStore, SqliteStore, Store
from spendfuse.config.alerts import Channel
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.limits import Limit
from spendfuse.ledger.sqlite import open_sqlite, open_sqlite_rehearsal
from spendfuse.ledger.sqlite_file import sqlite_has_wal_race
from spendfuse.ledger.store import Ledger, Topic
from spendfuse.upstream.client import UpstreamClient

if TYPE_CHECKING:
    from spendfuse.alerting.outbox import ChannelSender, Outbox
    from spendfuse.drill.stage import Stage
    from spendfuse.gate.shared import Shared
    from spendfuse.ledger.spool import Spool

logger = logging.getLogger("spendfuse")

OUTBOX_STOP_S = 1.0
"""How long messages under way may take once all calls have ended; what takes longer is sent once more."""
DRAIN_S = 3.0
"""How long the ends of reservations may take once all calls have ended; what is left then is the keeper's."""

DRILL_INTERVAL_S = 10.0
"""How often a drill's keeper and follower look: nobody else changes its store, and each look costs real time."""


async def open_store(store: Store, *, limits: tuple[Limit, ...] | None) -> Ledger:
    """The ledger in a store; with None it applies no limits, and can't reserve.

    Raises:
        LedgerUnavailable, LedgerError: it can't be opened; the message says why.
    """
    match store:
        case SqliteStore(path):
            return await open_sqlite(path, limits=limits, clock=SystemClock())
        case PostgresStore(dsn):
            # Its driver is not loaded where it is not used.
            from spendfuse.ledger.postgres import open_postgres

            return await open_postgres(dsn.reveal(), limits=limits)


async def migrate_store(config: Config) -> list[str]:
    """Create or upgrade a config's store; the migrations that were applied, where the engine can tell.

    Raises:
        LedgerUnavailable, LedgerError: as `open_store`.
    """
    match config.store:
        case SqliteStore():
            # Opening does it.
            await (await open_store(config.store, limits=None)).close()
            return []
        case PostgresStore(dsn):
            from spendfuse.ledger.postgres import migrate_postgres

            return await migrate_postgres(dsn.reveal())


@asynccontextmanager
async def open_ledger(config: Config) -> AsyncGenerator[Ledger]:
    """The store as commands use it: it applies no limits, and reserves nothing."""
    ledger = await open_store(config.store, limits=None)
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def open_app(config: Config) -> AsyncGenerator[GatewayApp]:
    """The whole gateway of one process, opened in its event loop."""
    # What only a gateway needs is imported only by one: a command starts in half the time.
    from spendfuse.alerting.senders import check_channels
    from spendfuse.ledger.spool import open_spool
    from spendfuse.ledger.upkeep import Caretaker
    from spendfuse.server.auth import Keyring
    from spendfuse.server.gateway import Gateway
    from spendfuse.upstream.http_client import HttpClient

    check_channels(config.alerting)
    async with contextlib.AsyncExitStack() as stack:
        ledger = await open_store(config.store, limits=config.limits)
        stack.push_async_callback(_leave, ledger)
        spool = await stack.enter_async_context(open_spool(ledger, config.spool, store=config.store.where))
        client = HttpClient()
        stack.push_async_callback(client.close)
        keyring = Keyring(config.keys, ledger, new_subjects_per_hour=config.new_subjects_per_hour)
        opening = _open_shared(ledger, spool, client, SystemClock(), loads={Topic.KEYS: keyring.load})
        shared = await stack.enter_async_context(opening)
        caretaker = Caretaker(ledger, retention_s=config.retention_s)
        caretaker.start()
        stack.push_async_callback(caretaker.stop)
        sending = _open_outbox(config, shared, lambda channel: make_sender(channel, client))
        yield Gateway(config, shared=shared, keyring=keyring, outbox=await stack.enter_async_context(sending))


@asynccontextmanager
async def open_drill_stage(config: Config, client: UpstreamClient, clock: Clock) -> AsyncGenerator["Stage"]:
    """The inside of a gateway for a drill: over a store of its own, which is gone with it, whatever the config's is."""
    from spendfuse.drill.stage import MutedSender, Stage
    from spendfuse.gate.exchanges import served
    from spendfuse.gate.gate import Gate
    from spendfuse.gate.routes import Routes
    from spendfuse.ledger.spool import open_spool

    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spendfuse-drill-")))
        ledger = await open_sqlite_rehearsal(folder / "drill.db", limits=config.limits, clock=clock)
        stack.push_async_callback(ledger.close)
        spool = await stack.enter_async_context(open_spool(ledger, folder / "spool", store="drill"))
        opening = _open_shared(ledger, spool, client, clock, interval_s=DRILL_INTERVAL_S)
        shared = await stack.enter_async_context(opening)
        exchanges = served(config, clock).exchanges
        gate = Gate(config=config, routes=Routes(config, clock), exchanges=exchanges, shared=shared)
        shared.breakers.configure(config.breakers)
        await stack.enter_async_context(_open_outbox(config, shared, lambda _: MutedSender()))
        yield Stage(gate, shared)


@asynccontextmanager
async def _open_shared(
    ledger: Ledger,
    spool: "Spool",
    client: UpstreamClient,
    clock: Clock,
    *,
    loads: Mapping[Topic, Callable[[], Awaitable[None]]] | None = None,
    interval_s: float | None = None,
) -> AsyncGenerator["Shared"]:
    """All that a gateway does beside its calls, whatever its store and its provider are: `loads` follow the store too.
    `interval_s` is how often it looks at the store where it need not look at once.
    """
    from spendfuse.gate.shared import Shared
    from spendfuse.ledger.following import FOLLOW_INTERVAL_S, Follower
    from spendfuse.ledger.keeper import KEEPER_INTERVAL_S, Keeper

    async with contextlib.AsyncExitStack() as stack:
        shared = Shared(ledger, spool, client, clock)
        stack.push_async_callback(shared.drain, DRAIN_S)
        follows = {
            **(loads or {}),
            Topic.OVERRUNS: shared.overruns.load,
            Topic.BREAKERS: shared.breakers.load,
            Topic.SPENT: shared.spent_ended,
        }
        follower = Follower(ledger, follows, interval_s=interval_s or FOLLOW_INTERVAL_S)
        await follower.refresh()
        keeper = Keeper(ledger, interval_s=interval_s or KEEPER_INTERVAL_S)
        keeper.start()
        stack.push_async_callback(keeper.stop)
        telling = (shared.refusals.run(), shared.spent.run(), shared.unpriced.run())
        await stack.enter_async_context(_running(follower.run(), shared.breakers.run(), *telling))
        yield shared


async def _leave(ledger: Ledger) -> None:
    """Close a gateway's ledger. A store that is away then does not keep it from ending: its lease ends by itself."""
    try:
        await ledger.close()
    except LedgerUnavailable as error:
        logger.warning("store_not_left error=%s", error)


def warnings_of(config: Config, workers: int) -> list[str]:
    """What is worth a warning about this machine's SQLite when so many processes serve the config."""
    is_shared_file = isinstance(config.store, SqliteStore) and workers > 1
    if not is_shared_file or not sqlite_has_wal_race(sqlite3.sqlite_version_info):
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


@asynccontextmanager
async def _open_outbox(
    config: Config, shared: "Shared", make: Callable[[Channel], "ChannelSender"]
) -> AsyncGenerator["Outbox"]:
    """Alerts on their way to the channels of a config, by these senders."""
    from spendfuse.alerting.outbox import Outbox

    outbox = Outbox(shared.ledger, config, make, shared.clock)
    try:
        async with _running(outbox.run()):
            yield outbox
    finally:
        await outbox.stop(OUTBOX_STOP_S)


def make_sender(channel: Channel, client: UpstreamClient) -> "ChannelSender":
    """What sends to a channel of the config."""
    from spendfuse.alerting.senders import AppriseSender
    from spendfuse.alerting.webhook import WebhookSender

    if channel.signs_with is not None:
        return WebhookSender(channel.url, channel.signs_with, client, lambda: int(time.time()))
    return AppriseSender(channel)


@asynccontextmanager
async def open_sender(channel: Channel) -> AsyncGenerator["ChannelSender"]:
    """What sends to a channel, for as long as a command takes."""
    from spendfuse.upstream.http_client import HttpClient

    client = HttpClient()
    sender = make_sender(channel, client)
    try:
        yield sender
    finally:
        sender.close()
        await client.close()


FACTORIES = Factories(
    open_ledger=open_ledger,
    migrate_store=migrate_store,
    open_app=open_app,
    open_sender=open_sender,
    warnings=warnings_of,
    open_drill_stage=open_drill_stage,
)


def main() -> None:
    """Run the command line."""
    build(FACTORIES)()


if __name__ == "__main__":
    main()
