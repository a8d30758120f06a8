"""What every process does to the store again and again, beside its calls.

Failure policy: a store that can't be reached is reported and tried again at the next interval; nothing is given up.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod

from spendfuse.core.errors import LedgerClosed, LedgerError

_log = logging.getLogger(__name__)


class Rounds(ABC):
    """A task of this name that takes one round after another, the first at once; from `start` to `stop`."""

    def __init__(self, name: str, interval_s: float) -> None:
        self._name = name
        self._interval_s = interval_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a first round at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """End after the round under way."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            wait_s = self._interval_s
            try:
                wait_s = await self._round()
            except LedgerClosed:
                return
            except LedgerError as error:
                _log.warning("%s_failed reason=%s", self._name, error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    @abstractmethod
    async def _round(self) -> float:
        """One round; the seconds until the next."""
