"""The PostgreSQL engine: any number of processes on any number of hosts, each with one connection that writes.

Failure policy: closed; see `postgres_connection` for what counts as unavailable. A process reconnects by itself.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from spendfuse.clock import Clock
from spendfuse.core.breakers import Breaker, Counts
from spendfuse.core.limits import Limit
from spendfuse.ledger.alerts import ChannelHealth, StoredAlert
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.batching import STORE_TIMEOUT_S
from spendfuse.ledger.breakers import BreakerChange, BreakerStates
from spendfuse.ledger.operations import Audit, Operation, Outcome
from spendfuse.ledger.postgres_connection import PostgresConnection, connect, migrate, unavailable
from spendfuse.ledger.postgres_reader import PostgresReader
from spendfuse.ledger.postgres_writer import LEASE_S, PostgresWriter
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.store import BalanceLine, KeyRecord, Ledger, RefusalCount, SpendRow, TargetOverrun, Topic
from spendfuse.ledger.verbs import BatchingLedger


async def open_postgres(
    dsn: str,
    *,
    limits: tuple[Limit, ...] | None,
    clock: Clock | None = None,
    timeout_s: float = STORE_TIMEOUT_S,
    lease_s: float = LEASE_S,
) -> Ledger:
    """Open, and if need be create or upgrade, a store, and make these limits the ones that rule.

    With None nothing is applied: such a process does everything but reserve. A clock replaces that of the store, but
    not for leases, which end `lease_s` after their last renewal.

    Raises:
        LedgerUnavailable: the store can't be reached or used within `timeout_s`.
        LedgerError: it is set up to lose commits, or a newer Spendfuse has written it.
    """
    engine = PostgresEngine(dsn, limits, clock, timeout_s=timeout_s, lease_s=lease_s)
    await engine.open()
    ledger = BatchingLedger(engine, timeout_s=timeout_s)
    ledger.start()
    return ledger


async def migrate_postgres(dsn: str, *, timeout_s: float = 60.0) -> list[str]:
    """Create or upgrade a store without opening it; what was applied. Safe while processes of older versions run.

    Raises:
        LedgerUnavailable, LedgerError: as `open_postgres`.
    """
    connection = await connect(dsn, timeout_s=timeout_s, is_writer=True)
    try:
        with unavailable():
            return await migrate(connection)
    finally:
        connection.terminate()


class PostgresEngine:
    """An `Engine` over one connection for batches and whatever is short, and another, made when needed, for reports."""

    def __init__(
        self, dsn: str, limits: tuple[Limit, ...] | None, clock: Clock | None, *, timeout_s: float, lease_s: float
    ) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._writer = PostgresWriter(
            self._connect_writer, None if limits is None else AppliedLimits(limits), clock, lease_s
        )
        self._reader = PostgresReader(self._connect_reader, clock)
        self._turn = asyncio.Lock()

    @property
    def owner_id(self) -> int:
        """See `Engine`."""
        return self._writer.owner_id

    async def open(self) -> None:
        """See `open_postgres`."""
        try:
            async with self._writing():
                await migrate_postgres(self._dsn, timeout_s=self._timeout_s)
                await self._writer.open()
        except BaseException:
            self._writer.disconnect()
            raise

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.run(operations)

    async def balances(self, limit_name: str | None) -> Sequence[BalanceLine]:
        """See `Engine`."""
        return await self._reader.balances(limit_name)

    async def audit(self) -> Audit:
        """See `Engine`."""
        return await self._reader.audit()

    async def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> Sequence[SpendRow]:
        """See `Engine`."""
        return await self._reader.spend(label, since_ms=since_ms, until_ms=until_ms, top=top)

    async def spenders(self, label: str, limit: Limit, subject: str, *, since_ms: int) -> Sequence[SpendRow]:
        """See `Engine`."""
        return await self._reader.spenders(label, limit, subject, since_ms)

    async def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """See `Engine`."""
        return await self._reader.settled_since(since_ms)

    async def keys(self) -> Sequence[KeyRecord]:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.keys()

    async def overruns(self) -> Sequence[TargetOverrun]:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.overruns()

    async def refusals(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """See `Engine`."""
        return await self._reader.refusals(since_ms, until_ms)

    async def has_outbox_work(self, holder: str) -> bool:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.has_outbox_work(holder)

    async def alerts(self, since_ms: int) -> Sequence[StoredAlert]:
        """See `Engine`."""
        return await self._reader.alerts(since_ms)

    async def channel_health(self) -> Sequence[ChannelHealth]:
        """See `Engine`."""
        return await self._reader.channel_health()

    async def spent(self) -> Sequence[SpentLine]:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.spent()

    async def breakers(self) -> BreakerStates:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.breakers()

    async def breaker_changes(self, *, after: int, newest: int | None) -> Sequence[BreakerChange]:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.breaker_changes(after=after, newest=newest)

    async def baseline(self, breaker: Breaker) -> Mapping[str, Counts]:
        """See `Engine`."""
        return await self._reader.baseline(breaker)

    async def revisions(self) -> Mapping[Topic, int]:
        """See `Engine`."""
        async with self._writing():
            return await self._writer.revisions()

    async def close(self) -> None:
        """See `Engine`."""
        self._reader.close()
        async with self._writing():
            await self._writer.close()

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncGenerator[None]:
        """The writing connection, its turn included for as long as the bound allows; a verb that hangs takes the
        connection with it."""
        with unavailable():
            async with asyncio.timeout(self._timeout_s), self._turn:
                yield

    async def _connect_writer(self) -> PostgresConnection:
        return await connect(self._dsn, timeout_s=self._timeout_s, is_writer=True)

    async def _connect_reader(self) -> PostgresConnection:
        return await connect(self._dsn, timeout_s=self._timeout_s, is_writer=False)
