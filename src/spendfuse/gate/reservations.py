"""Reservations while the gate owns them: each is ended exactly once, behind the answer, whatever happens to the call.

Failure policy: closed. A settle or void that the store does not take is repeated with the same id until the process
drains; a reservation that still is open then is charged at its quote by the keeper of another process, or of the next
one. Nothing is ever given back without proof.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.money import format_usd
from spendfuse.core.reservations import Charge, Entry, ReservationId, reservation_text
from spendfuse.gate.endings import Held
from spendfuse.ledger.store import Ledger

logger = logging.getLogger("spendfuse.gate")
_RETRY_S_FIRST, _RETRY_S_MAX = 0.05, 2.0


@dataclass(slots=True)
class OpenReservation:
    """One reservation held by this process. Exactly one of `settle` and `void` takes effect; a second is a bug."""

    id: ReservationId
    held: Held
    _endings: "Endings" = field(repr=False)
    is_ended: bool = False
    on_charge: Callable[[Charge], None] | None = None
    """Whom to tell what it is settled at."""

    def settle(self, charge: Charge | Callable[[], Charge]) -> None:
        """End it at a charge. Returns at once; the ledger's transaction runs on behind, safe from cancellation.

        A charge that takes long to work out (tokens to count) comes as a function, which is called in a thread.
        """
        self._end()
        self._endings.settle(self.id, charge, self.on_charge)

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
            return await self._endings.ledger.extend(self.id, quote=held.quote, cap=held.cap, deadline_s=deadline_s)
        except LedgerUnavailable:
            return True

    async def extend(self, *, cap: int, deadline_s: float) -> bool:
        """Try to raise it to a cap and move its deadline; False when it stays as it was."""
        try:
            extended = await self._endings.ledger.extend(self.id, quote=self.held.quote, cap=cap, deadline_s=deadline_s)
        except LedgerUnavailable:
            return False
        if extended:
            self.held = Held(self.held.quote, cap)
        return extended


class Endings:
    """Runs the ends of reservations behind their calls, keeps them, and waits for them when the process drains."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        # Asked for once: `get_running_loop` is a system call before Python 3.12.
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Future[Any]] = set()
        self._draining = False

    def opened(self, reservation_id: ReservationId, held: Held) -> OpenReservation:
        """Take over a reservation that the ledger has admitted."""
        return OpenReservation(reservation_id, held, self)

    def settle(
        self,
        reservation_id: ReservationId,
        charge: Charge | Callable[[], Charge],
        on_charge: Callable[[Charge], None] | None = None,
    ) -> None:
        """Settle, repeating with the same id while the store is away."""
        if not isinstance(charge, Charge):
            self._run(reservation_id, self._settle_later(reservation_id, charge, on_charge))
            return
        if on_charge is not None:
            on_charge(charge)
        # The common way has no task of its own: the ledger's future is enough.
        settling = asyncio.ensure_future(self.ledger.settle(reservation_id, charge), loop=self._loop)
        self._running.add(settling)
        settling.add_done_callback(partial(self._settled, reservation_id, charge))

    def void(self, reservation_id: ReservationId) -> None:
        """Void, likewise."""
        self._run(reservation_id, self._until_taken(reservation_id, partial(self.ledger.void, reservation_id)))

    def _settled(self, reservation_id: ReservationId, charge: Charge, settling: asyncio.Future[Entry]) -> None:
        self._running.discard(settling)
        if settling.cancelled():
            return
        error = settling.exception()
        if error is None:
            _tell_overrun(settling.result())
        elif isinstance(error, LedgerUnavailable) and not self._draining:
            again = partial(self.ledger.settle, reservation_id, charge)
            self._run(reservation_id, self._until_taken(reservation_id, again, first_wait_s=_RETRY_S_FIRST))
        else:
            _tell_left(reservation_id, error)

    async def _settle_later(
        self,
        reservation_id: ReservationId,
        work_out: Callable[[], Charge],
        on_charge: Callable[[Charge], None] | None,
    ) -> Entry:
        charge = await asyncio.to_thread(work_out)
        if on_charge is not None:
            on_charge(charge)
        return await self._until_taken(reservation_id, partial(self.ledger.settle, reservation_id, charge))

    async def _until_taken(
        self, reservation_id: ReservationId, end: Callable[[], Awaitable[Entry]], *, first_wait_s: float = 0.0
    ) -> Entry:
        wait_s = first_wait_s
        while True:
            if wait_s:
                logger.warning("ending_postponed reservation_id=%s", reservation_text(reservation_id))
                await asyncio.sleep(wait_s)
            try:
                return await end()
            except LedgerUnavailable:
                if self._draining:
                    raise
            wait_s = min(max(wait_s * 2, _RETRY_S_FIRST), _RETRY_S_MAX)

    def _run(self, reservation_id: ReservationId, ending: Coroutine[Any, Any, Entry]) -> None:
        task = self._loop.create_task(self._finish(reservation_id, ending))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _finish(self, reservation_id: ReservationId, ending: Coroutine[Any, Any, Entry]) -> None:
        try:
            _tell_overrun(await ending)
        except LedgerError as error:
            _tell_left(reservation_id, error)

    async def drain(self, timeout_s: float) -> None:
        """Wait for all endings; those that the store has not taken by then are left to the keeper."""
        ends_at_s = self._loop.time() + timeout_s
        while self._running and (left_s := ends_at_s - self._loop.time()) > 0:
            await asyncio.wait(self._running, timeout=left_s)
        self._draining = True
        late = tuple(self._running)
        for ending in late:
            ending.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _tell_overrun(entry: Entry) -> None:
    if entry.overrun_cost > 0:
        logger.error(
            "overrun_recorded reservation_id=%s held_usd=%s charged_usd=%s",
            reservation_text(entry.reservation_id),
            format_usd(entry.held.cost),
            format_usd(entry.amounts.cost),
        )


def _tell_left(reservation_id: ReservationId, error: BaseException) -> None:
    logger.error("ending_left_to_keeper reservation_id=%s error=%s", reservation_text(reservation_id), error)
