"""Keeps the store small and its reports fast, a piece at a time, behind the calls.

Every process does so: pieces take turns by the store's lock, and what one has done is not left for another to do.

Failure policy: a store that can't be reached is reported and tried again at the next interval; nothing is given up.
"""

import asyncio
import contextlib
import logging

from spendfuse.core.errors import LedgerClosed, LedgerError
from spendfuse.ledger.store import Ledger

UPKEEP_INTERVAL_S = 60.0
PAUSE_S = 0.1
"""Between pieces, of which each takes some milliseconds: calls have the store for more than nine tenths of the time."""

_log = logging.getLogger(__name__)


class Caretaker:
    """A task that calls `Ledger.upkeep` until nothing is left to do, and again at an interval; from `start` to `stop`.

    `retention_s` is how long entries are kept; None: for ever.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        retention_s: float | None,
        interval_s: float = UPKEEP_INTERVAL_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._ledger = ledger
        self._retention_ms = None if retention_s is None else int(retention_s * 1_000)
        self._interval_s = interval_s
        self._pause_s = pause_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a first piece at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="caretaker")

    async def stop(self) -> None:
        """End after the piece under way."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            is_more = False
            try:
                is_more = await self._ledger.upkeep(self._retention_ms)
            except LedgerClosed:
                return
            except LedgerError as error:
                _log.warning("upkeep_failed reason=%s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause_s if is_more else self._interval_s)
