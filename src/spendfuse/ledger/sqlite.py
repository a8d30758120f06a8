"""The SQLite engine: one file, any number of processes on one host.

Failure policy: closed; see `sqlite_file` for what counts as unavailable.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from spendfuse.clock import Clock, SystemClock
from spendfuse.core.breakers import Breaker, Counts
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.limits import Limit
from spendfuse.ledger.alerts import ChannelHealth, StoredAlert
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.batching import STORE_TIMEOUT_S
from spendfuse.ledger.breakers import BreakerChange, BreakerStates
from spendfuse.ledger.operations import Audit, Operation, Outcome
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.sqlite_reader import SqliteReader
from spendfuse.ledger.sqlite_writer import SqliteWriter
from spendfuse.ledger.store import BalanceLine, KeyRecord, Ledger, RefusalCount, SpendRow, TargetOverrun, Topic
from spendfuse.ledger.verbs import BatchingLedger
from spendfuse.ledger.worker import InlineWorker, WorkerThread


async def open_sqlite(
    path: Path,
    *,
    limits: tuple[Limit, ...] | None,
    clock: Clock | None = None,
    timeout_s: float = STORE_TIMEOUT_S,
) -> Ledger:
    """Open, and if need be create or upgrade, a store, and make these limits the ones that rule.

    With None nothing is applied: such a process does everything but reserve. Must be called after any fork.

    Raises:
        LedgerUnavailable: the file can't be used, or its lock can't be had within `timeout_s`.
        LedgerError: a newer Spendfuse has written the store.
    """
    engine = SqliteEngine(path, limits, clock or SystemClock(), timeout_s)
    await engine.open()
    ledger = BatchingLedger(engine, timeout_s=timeout_s)
    ledger.start()
    return ledger


async def open_sqlite_rehearsal(path: Path, *, limits: tuple[Limit, ...], clock: Clock) -> Ledger:
    """A new store for a rehearsal: the same ledger, but all its work is done in the event loop, whose time may be
    virtual, and nothing waits for the disk, as nobody needs it afterwards.
    """
    engine = SqliteEngine(path, limits, clock, STORE_TIMEOUT_S, is_rehearsal=True)
    await engine.open()
    ledger = BatchingLedger(engine)
    ledger.start()
    return ledger


class SqliteEngine:
    """An `Engine` over two connections, each on a thread of its own: one writes, one reads snapshots.

    See `open_sqlite_rehearsal` for what is different in one.
    """

    def __init__(
        self,
        path: Path,
        limits: tuple[Limit, ...] | None,
        clock: Clock,
        timeout_s: float,
        *,
        is_rehearsal: bool = False,
    ) -> None:
        applied = None if limits is None else AppliedLimits(limits)
        self._writer = SqliteWriter(path, applied, clock, is_durable=not is_rehearsal)
        self._reader = SqliteReader(path, clock)
        self._writing = InlineWorker() if is_rehearsal else WorkerThread("ledger-writer")
        self._reading = InlineWorker() if is_rehearsal else WorkerThread("ledger-reader")
        self._timeout_s = timeout_s

    @property
    def owner_id(self) -> int:
        """See `Engine`."""
        return self._writer.owner_id

    async def open(self) -> None:
        """See `open_sqlite`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._writing.submit(self._writer.open)
                await self._reading.submit(self._reader.open)
        except BaseException as error:
            # Should it still succeed on its thread, it is closed at once.
            self._writing.submit(self._writer.close)
            self._stop()
            if isinstance(error, TimeoutError):
                raise LedgerUnavailable(f"another process held the store's lock for {self._timeout_s:g} s") from None
            raise

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """See `Engine`."""
        return await self._writing.submit(lambda: self._writer.run(operations))

    async def balances(self, limit_name: str | None) -> Sequence[BalanceLine]:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.balances(limit_name))

    async def audit(self) -> Audit:
        """See `Engine`."""
        return await self._reading.submit(self._reader.audit)

    async def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> Sequence[SpendRow]:
        """See `Engine`."""
        return await self._reading.submit(
            lambda: self._reader.spend(label, since_ms=since_ms, until_ms=until_ms, top=top)
        )

    async def spenders(self, label: str, limit: Limit, subject: str, *, since_ms: int) -> Sequence[SpendRow]:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.spenders(label, limit, subject, since_ms))

    async def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.settled_since(since_ms))

    async def keys(self) -> Sequence[KeyRecord]:
        """See `Engine`."""
        return await self._reading.submit(self._reader.keys)

    async def overruns(self) -> Sequence[TargetOverrun]:
        """See `Engine`."""
        return await self._reading.submit(self._reader.overruns)

    async def refusals(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.refusals(since_ms, until_ms))

    async def has_outbox_work(self, holder: str) -> bool:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.has_outbox_work(holder))

    async def alerts(self, since_ms: int) -> Sequence[StoredAlert]:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.alerts(since_ms))

    async def channel_health(self) -> Sequence[ChannelHealth]:
        """See `Engine`."""
        return await self._reading.submit(self._reader.channel_health)

    async def spent(self) -> Sequence[SpentLine]:
        """See `Engine`."""
        return await self._reading.submit(self._reader.spent)

    async def breakers(self) -> BreakerStates:
        """See `Engine`."""
        return await self._reading.submit(self._reader.breakers)

    async def breaker_changes(self, *, after: int, newest: int | None) -> Sequence[BreakerChange]:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.breaker_changes(after=after, newest=newest))

    async def baseline(self, breaker: Breaker) -> Mapping[str, Counts]:
        """See `Engine`."""
        return await self._reading.submit(lambda: self._reader.baseline(breaker))

    async def revisions(self) -> Mapping[Topic, int]:
        """See `Engine`."""
        return await self._reading.submit(self._reader.revisions)

    async def close(self) -> None:
        """See `Engine`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._reading.submit(self._reader.close)
                await self._writing.submit(self._writer.close)
        except TimeoutError:
            raise LedgerUnavailable("the store hangs; what this process holds expires once it has ended") from None
        finally:
            self._stop()

    def _stop(self) -> None:
        self._reading.stop()
        self._writing.stop()
