"""Keeps what nobody else ends: renews this process's lease and expires reservations whose owner is gone or too late.

Failure policy: a store that can't be reached is reported and tried again at the next interval; nothing is given up.
"""

import asyncio
import contextlib
import logging

from spendfuse.core.errors import LedgerClosed, LedgerError
from spendfuse.core.reservations import reservation_text
from spendfuse.ledger.store import Ledger

KEEPER_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


class Keeper:
    """A task that calls `Ledger.expire_due` at an interval, which also renews the lease; from `start` to `stop`."""

    def __init__(self, ledger: Ledger, *, interval_s: float = KEEPER_INTERVAL_S) -> None:
        self._ledger = ledger
        self._interval_s = interval_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a first round at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="keeper")

    async def stop(self) -> None:
        """End after the round under way."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._expire()
            except LedgerClosed:
                return
            except LedgerError as error:
                _log.warning("expiry_failed reason=%s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._interval_s)

    async def _expire(self) -> None:
        for entry in await self._ledger.expire_due():
            _log.warning(
                "reservation_expired reservation_id=%s charged_nanos=%d",
                reservation_text(entry.reservation_id),
                entry.amounts.cost,
            )
