"""The spool: where ends of reservations wait, on this host's disk, while the store does not take them.

What the store has not taken is written down and synced before the copy in memory may go, and replayed in order once the
store is back. Every end is idempotent by its reservation's id, so one that is replayed twice, or that the store had
taken unseen, changes nothing. While the store takes everything, no file is opened.

Failure policy: what can't be written (the disk or a file is full) is kept in memory, reported, and tried again; it is
replayed from there, and lost with the process, whose reservations the keeper then charges at their quotes. A call
without a reservation is not begun then. What can't be read, or what the ledger refuses for good, is set aside in a file
beside and reported: never dropped, never tried for ever.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, assert_never

from spendfuse.core.errors import LedgerClosed, LedgerUnavailable
from spendfuse.core.money import Nanos, format_usd
from spendfuse.core.reservations import Charge, Entry, EntryKind, ReservationId, reservation_text
from spendfuse.core.usage import NOTHING
from spendfuse.ledger.operations import Record, Settle, Void
from spendfuse.ledger.spool_file import Line, SpoolFile, SpoolFolder
from spendfuse.ledger.spool_lines import Begun, Spooled, Unbilled, encode
from spendfuse.ledger.store import Ledger

RETRY_S_FIRST, RETRY_S_MAX = 0.05, 2.0
SPOOL_BYTES_MAX = 64 * 2**20
"""Of what one process has written down: about 300,000 ends."""
TAKEOVER_INTERVAL_S = 10.0
"""How often files of processes that died are looked for, besides at start."""
AT_ONCE_MAX = 512
"""So many ends are written with one sync, or are under way to the store."""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """An end that is in memory only. `written`, for a call that wants to begin, is told whether it is on disk."""

    spooled: Spooled
    written: asyncio.Future[bool] | None = None


class Spool:
    """The ends that the store has not taken, of this process and of those that died before it: from `start` to `close`.

    `store` says for people which store they belong to; files for another one are left alone.
    """

    def __init__(self, ledger: Ledger, folder: Path, *, store: str) -> None:
        self._ledger = ledger
        self._folder = SpoolFolder(folder, store)
        self._path = folder
        self._fresh: deque[_Fresh] = deque()
        self._own: SpoolFile | None = None
        self._others: list[SpoolFile] = []
        """Of processes that died, and those of this one that it writes to no more."""
        self._begun: set[ReservationId] = set()
        """Calls without a reservation, on disk, that are under way."""
        self._can_write = True
        self._turn = asyncio.Lock()
        """Held while the disk has what is in memory, and whenever the one is changed because of the other."""
        self._to_write, self._to_replay, self._moved = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_closing = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, by taking over what processes that died have left."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write_on(), name="spool"), loop.create_task(self._replay_on())]

    async def close(self) -> None:
        """Stop. What is on disk stays there for whoever starts next."""
        self._is_closing = True
        self._to_write.set()
        if self._tasks:
            writing, replaying = self._tasks
            replaying.cancel()
            await asyncio.gather(writing, replaying, return_exceptions=True)
        for fresh in self._fresh:
            _log.error("ending_left_to_keeper reservation_id=%s", reservation_text(fresh.spooled.reservation_id))
        for file in self._files():
            file.close()

    @property
    def is_empty(self) -> bool:
        """Whether the store has everything."""
        return not self._fresh and not self._files()

    def put(self, end: Settle | Void | Record | Unbilled) -> None:
        """Take over the end of a call that the store has not taken. Returns at once."""
        _log.warning("ending_postponed reservation_id=%s", reservation_text(end.reservation_id))
        self._fresh.append(_Fresh(end))
        self._to_write.set()

    async def begin(self, record: Record) -> bool:
        """Write down that a call goes out without a reservation, before it does; True once that is on disk.

        Its end has to be `put`: as a `Record` or as `Unbilled`. Should the process die before, the call counts as this
        record says, which has to be at least what it can cost.
        """
        if not self._can_write or self._is_closing:
            return False
        written = asyncio.get_running_loop().create_future()
        self._fresh.append(_Fresh(Begun(record), written))
        self._to_write.set()
        try:
            return await written
        except asyncio.CancelledError:
            self.put(Unbilled(record.reservation_id))
            raise

    async def drain(self, timeout_s: float) -> None:
        """Wait until the store has everything that was put; while it is away, until the disk has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._fresh or (self._ledger.outage is None and not self.is_empty):
                    self._to_replay.set()
                    self._moved.clear()
                    await self._moved.wait()

    async def _write_on(self) -> None:
        try:
            await self._in_thread(self._folder.prepare)
        except OSError as error:
            _log.error("spool_unusable folder=%s error=%s", self._path, error)
        while self._fresh or not self._is_closing:
            await self._to_write.wait()
            self._to_write.clear()
            await self._write()
            if self._is_closing:
                return

    async def _write(self) -> None:
        """Write down whatever is in memory, several ends with one sync."""
        async with self._turn:
            while self._fresh:
                several = list(islice(self._fresh, AT_ONCE_MAX))
                try:
                    await self._in_thread(self._append, [encode(one.spooled) for one in several])
                except OSError as error:
                    self._stay_in_memory(error)
                    break
                self._can_write = True
                for one in several:
                    self._fresh.popleft()
                    self._note_written(one)
        self._to_replay.set()
        self._moved.set()

    def _append(self, lines: Sequence[bytes]) -> None:
        """On a thread: append to this process's file. Whether a file that failed has what it was told to sync, nobody
        can say, so it is written to no more."""
        size_bytes = sum(file.size_bytes for file in self._files() if file.is_own) + sum(map(len, lines))
        if size_bytes > SPOOL_BYTES_MAX:
            raise OSError(f"the spool of one process takes no more than {SPOOL_BYTES_MAX:,} bytes")
        own = self._own or self._folder.create()
        self._own = None
        try:
            own.append(lines)
        except OSError:
            if own.is_exhausted and not self._begun:
                own.remove()
            else:
                self._others.append(own)
            raise
        self._own = own

    def _stay_in_memory(self, error: OSError) -> None:
        everything = list(self._fresh)
        self._fresh.clear()
        self._fresh.extend(one for one in everything if one.written is None)
        for one in everything:
            _tell(one.written, is_written=False)
        if self._fresh:
            _log.error("spool_not_written folder=%s waiting=%d error=%s", self._path, len(self._fresh), error)
            asyncio.get_running_loop().call_later(RETRY_S_MAX, self._to_write.set)
        self._can_write = not self._fresh

    def _note_written(self, fresh: _Fresh) -> None:
        if isinstance(fresh.spooled, Begun):
            self._begun.add(fresh.spooled.reservation_id)
            _tell(fresh.written, is_written=True)
        else:
            self._begun.discard(fresh.spooled.reservation_id)

    async def _replay_on(self) -> None:
        """Replay whenever there is something, and look for files of processes that died now and then."""
        wait_s, look = 0.0, True
        while True:
            try:
                if look:
                    self._others += await self._in_thread(self._folder.take_over)
                    look = False
                await self._replay()
            except LedgerClosed:
                return
            except (LedgerUnavailable, OSError) as error:
                if isinstance(error, OSError):
                    _log.error("spool_not_replayed folder=%s error=%s", self._path, error)
                wait_s = min(max(2 * wait_s, RETRY_S_FIRST), RETRY_S_MAX)
                await asyncio.sleep(wait_s)
                continue
            wait_s = 0.0
            look = not await self._has_more_within(TAKEOVER_INTERVAL_S)

    async def _has_more_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._to_replay.wait()
        except TimeoutError:
            return False
        self._to_replay.clear()
        return True

    async def _replay(self) -> None:
        """Bring everything to the store, in order.

        Raises:
            LedgerUnavailable: the store is away (again); what it has not taken stays.
            OSError: a file can't be read, or what has to be set aside can't be written.
        """
        for file in self._files():
            while not file.is_exhausted:
                await self._replay_some(file)
            await self._forget(file)
        if self._fresh and not self._can_write:
            await self._replay_memory()

    async def _replay_some(self, file: SpoolFile) -> None:
        lines = (await self._in_thread(file.read))[:AT_ONCE_MAX]
        outcomes = await asyncio.gather(*[self._take(line.spooled, file) for line in lines], return_exceptions=True)
        for line, outcome in zip(lines, outcomes, strict=True):
            if isinstance(outcome, LedgerUnavailable):
                raise outcome
            if line.spooled is None or isinstance(outcome, BaseException):
                await self._in_thread(file.set_aside, [line.raw])
                _tell_aside(file, line, outcome)
            file.acknowledge(line.ends_at)
        self._moved.set()

    async def _replay_memory(self) -> None:
        async with self._turn:
            several = list(islice(self._fresh, AT_ONCE_MAX))
            outcomes = await asyncio.gather(*[self._take(one.spooled, None) for one in several], return_exceptions=True)
            for one, outcome in zip(several, outcomes, strict=True):
                if isinstance(outcome, LedgerUnavailable):
                    raise outcome
                if isinstance(outcome, BaseException):
                    _log.error("ending_refused end=%r error=%r", one.spooled, outcome)
                self._fresh.popleft()
                self._begun.discard(one.spooled.reservation_id)
            self._can_write = not self._fresh
        self._to_replay.set()
        self._moved.set()

    async def _take(self, spooled: Spooled | None, file: SpoolFile | None) -> None:
        """Let the store take one end."""
        if (outage := self._ledger.outage) is not None:
            raise outage
        match spooled:
            case Settle(reservation_id, charge):
                tell_overrun(await self._ledger.settle(reservation_id, charge))
            case Void(reservation_id):
                entry = await self._ledger.void(reservation_id)
                if entry.kind is EntryKind.EXPIRED:
                    # Charged at its quote meanwhile, and it is certain that nothing was billed.
                    await self._ledger.settle(reservation_id, Charge(NOTHING, Nanos(0)))
            case Record(demand, charge, at_ms):
                tell_overrun(await self._ledger.record(demand, charge, at_ms=at_ms))
            case Begun(record):
                if file is not None and spooled.reservation_id in file.unfinished:
                    await self._ledger.record(record.demand, record.charge, at_ms=record.at_ms)
            case Unbilled() | None:
                pass
            case _:
                assert_never(spooled)

    async def _forget(self, file: SpoolFile) -> None:
        """Remove a file of which the store has everything, unless a call that began in it is under way."""
        async with self._turn:
            if not file.is_exhausted or (file.is_own and self._begun):
                return
            await self._in_thread(file.remove)
            if file is self._own:
                self._own = None
            else:
                self._others.remove(file)
        _log.warning("spool_file_replayed file=%s", file.path)
        self._moved.set()

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        """Do what blocks on a thread: the event loop never waits for the disk."""
        return await asyncio.to_thread(work, *args)

    def _files(self) -> list[SpoolFile]:
        return [*self._others, self._own] if self._own is not None else list(self._others)


@contextlib.asynccontextmanager
async def open_spool(ledger: Ledger, folder: Path, *, store: str) -> AsyncGenerator[Spool]:
    """A spool from its start to its close."""
    spool = Spool(ledger, folder, store=store)
    spool.start()
    try:
        yield spool
    finally:
        await spool.close()


def tell_overrun(entry: Entry) -> None:
    """Say so where an entry is above what its reservation held."""
    if entry.overrun_cost > 0:
        _log.error(
            "overrun_recorded reservation_id=%s held_usd=%s charged_usd=%s",
            reservation_text(entry.reservation_id),
            format_usd(entry.held.cost),
            format_usd(entry.amounts.cost),
        )


def _tell(written: asyncio.Future[bool] | None, *, is_written: bool) -> None:
    if written is not None and not written.done():
        written.set_result(is_written)


def _tell_aside(file: SpoolFile, line: Line, outcome: object) -> None:
    if line.spooled is not None:
        number = reservation_text(line.spooled.reservation_id)
        _log.error("ending_set_aside reservation_id=%s file=%s error=%s", number, file.path, outcome)
        return
    event = "spool_line_corrupt" if line.raw.endswith(b"\n") else "spool_line_torn"
    _log.error("%s file=%s ends_at=%d bytes=%d", event, file.path, line.ends_at, len(line.raw))
