"""Reservations while the gate owns them: each is ended exactly once, behind the answer, whatever happens to the call.

Failure policy: closed. An end that the store does not take goes to the spool, which brings it there once the store is
back, from this process or from the next one on this host. Nothing is ever given back without proof.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.quotes import Quote
from spendfuse.core.reservations import Charge, Entry, ReservationId, reservation_text
from spendfuse.gate.endings import Held
from spendfuse.ledger.operations import Record, Settle, Void
from spendfuse.ledger.spool import Spool, tell_overrun
from spendfuse.ledger.spool_lines import Unbilled
from spendfuse.ledger.store import Ledger

logger = logging.getLogger("spendfuse.gate")


class _Ends(Protocol):
    """Where an open reservation ends, and who can raise it."""

    def settle(self, reservation_id: ReservationId, charge: Charge | Callable[[], Charge]) -> None: ...

    def void(self, reservation_id: ReservationId) -> None: ...

    async def extend(self, reservation_id: ReservationId, *, quote: Quote, cap: int, deadline_s: float) -> bool: ...


@dataclass(slots=True)
class OpenReservation:
    """One reservation held by this process. Exactly one of `settle` and `void` takes effect; a second is a bug."""

    id: ReservationId
    held: Held
    _endings: _Ends = field(repr=False)
    is_ended: bool = False
    on_charge: Callable[[Charge], None] | None = None
    """Whom to tell what it is settled at."""

    def settle(self, charge: Charge | Callable[[], Charge]) -> None:
        """End it at a charge. Returns at once; the ledger's transaction runs on behind, safe from cancellation.

        A charge that takes long to work out (tokens to count) comes as a function, which is called in a thread.
        """
        self._end()
        self._endings.settle(self.id, charge if self.on_charge is None else _telling(charge, self.on_charge))

    def void(self) -> None:
        """End it as never billed, likewise."""
        self._end()
        self._endings.void(self.id)

    def _end(self) -> None:
        assert not self.is_ended, "a reservation ends once"
        self.is_ended = True

    async def renew(self, *, deadline_s: float) -> bool:
        """Move its deadline; False when a keeper has ended it meanwhile. A store that is away has ended nothing."""
        held = self.held
        try:
            return await self._endings.extend(self.id, quote=held.quote, cap=held.cap, deadline_s=deadline_s)
        except LedgerUnavailable:
            return True

    async def extend(self, *, cap: int, deadline_s: float) -> bool:
        """Try to raise it to a cap and move its deadline; False when it stays as it was."""
        try:
            extended = await self._endings.extend(self.id, quote=self.held.quote, cap=cap, deadline_s=deadline_s)
        except LedgerUnavailable:
            return False
        if extended:
            self.held = Held(self.held.quote, cap)
        return extended


class Endings:
    """Runs the ends of reservations behind their calls, keeps them, and waits for them when the process drains."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        # Asked for once: `get_running_loop` is a system call before Python 3.12.
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Future[Any]] = set()

    def opened(self, reservation_id: ReservationId, held: Held) -> OpenReservation:
        """Take over a reservation that the ledger has admitted."""
        return OpenReservation(reservation_id, held, self)

    def begun(self, record: Record, held: Held) -> OpenReservation:
        """Take over a call without a reservation, which the spool has as begun, as if it had one."""
        return OpenReservation(record.reservation_id, held, _Unreserved(self, record))

    def settle(self, reservation_id: ReservationId, charge: Charge | Callable[[], Charge]) -> None:
        """Settle; where the store does not take it, the spool does."""
        if not isinstance(charge, Charge):
            self.run(self._settle_later(reservation_id, charge))
            return
        # The common way has no task of its own: the ledger's future is enough.
        settling = asyncio.ensure_future(self._ledger.settle(reservation_id, charge), loop=self._loop)
        self._running.add(settling)
        settling.add_done_callback(partial(self._settled, reservation_id, charge))

    def void(self, reservation_id: ReservationId) -> None:
        """Void, likewise."""
        self.run(self._finish(Void(reservation_id), self._ledger.void(reservation_id)))

    async def extend(self, reservation_id: ReservationId, *, quote: Quote, cap: int, deadline_s: float) -> bool:
        """See `Ledger.extend`."""
        return await self._ledger.extend(reservation_id, quote=quote, cap=cap, deadline_s=deadline_s)

    def put(self, end: Record | Unbilled) -> None:
        """End a call without a reservation."""
        self._spool.put(end)

    def _settled(self, reservation_id: ReservationId, charge: Charge, settling: asyncio.Future[Entry]) -> None:
        self._running.discard(settling)
        if settling.cancelled():
            self._spool.put(Settle(reservation_id, charge))
            return
        error = settling.exception()
        if error is None:
            tell_overrun(settling.result())
        elif isinstance(error, LedgerUnavailable):
            self._spool.put(Settle(reservation_id, charge))
        else:
            _tell_left(reservation_id, error)

    async def _settle_later(self, reservation_id: ReservationId, work_out: Callable[[], Charge]) -> None:
        charge = await asyncio.to_thread(work_out)
        await self._finish(Settle(reservation_id, charge), self._ledger.settle(reservation_id, charge))

    async def _finish(self, end: Settle | Void, ending: Awaitable[Entry]) -> None:
        try:
            tell_overrun(await ending)
        except (LedgerUnavailable, asyncio.CancelledError):
            self._spool.put(end)
        except LedgerError as error:
            _tell_left(end.reservation_id, error)

    def run(self, ending: Coroutine[Any, Any, None]) -> None:
        """Run an end as a task that is waited for when the process drains."""
        task = self._loop.create_task(ending)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def drain(self, timeout_s: float) -> None:
        """Wait for all ends: until the store has taken them, or, while it does not, the spool has."""
        ends_at_s = self._loop.time() + timeout_s
        while self._running and (left_s := ends_at_s - self._loop.time()) > 0:
            await asyncio.wait(self._running, timeout=left_s)
        late = tuple(self._running)
        for ending in late:
            ending.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._spool.drain(timeout_s)


class _Unreserved:
    """The end of one call without a reservation: it is written down in the spool, and nothing stands in its way."""

    def __init__(self, endings: Endings, record: Record) -> None:
        self._endings = endings
        self._begun = record

    def settle(self, reservation_id: ReservationId, charge: Charge | Callable[[], Charge]) -> None:
        if isinstance(charge, Charge):
            self._endings.put(self._record(charge))
        else:
            self._endings.run(self._settle_later(charge))

    def void(self, reservation_id: ReservationId) -> None:
        self._endings.put(Unbilled(reservation_id))

    async def extend(self, reservation_id: ReservationId, *, quote: Quote, cap: int, deadline_s: float) -> bool:
        return True

    async def _settle_later(self, work_out: Callable[[], Charge]) -> None:
        self._endings.put(self._record(await asyncio.to_thread(work_out)))

    def _record(self, charge: Charge) -> Record:
        return Record(self._begun.demand, charge, self._begun.at_ms)


def _telling(charge: Charge | Callable[[], Charge], tell: Callable[[Charge], None]) -> Charge | Callable[[], Charge]:
    """The same charge, of which somebody is told in the event loop."""
    if isinstance(charge, Charge):
        tell(charge)
        return charge
    loop = asyncio.get_running_loop()

    def work_out() -> Charge:
        worked_out = charge()
        loop.call_soon_threadsafe(tell, worked_out)
        return worked_out

    return work_out


def _tell_left(reservation_id: ReservationId, error: BaseException) -> None:
    logger.error("ending_left_to_keeper reservation_id=%s error=%s", reservation_text(reservation_id), error)
