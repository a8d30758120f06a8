"""Keeps copies of what the store has up to date, in every process within a second of any change.

Failure policy: a store that can't be read leaves the copies as they are and is asked again at the next interval; its
limits refuse every call in the meantime anyway.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from spendfuse.core.errors import LedgerClosed, LedgerUnavailable
from spendfuse.ledger.store import Ledger, Topic

FOLLOW_INTERVAL_S = 0.5

_log = logging.getLogger(__name__)


class Follower:
    """Loads each topic anew whenever its revision has changed."""

    def __init__(
        self,
        ledger: Ledger,
        loads: Mapping[Topic, Callable[[], Awaitable[None]]],
        *,
        interval_s: float = FOLLOW_INTERVAL_S,
    ) -> None:
        self._ledger = ledger
        self._loads = loads
        self._interval_s = interval_s
        self._loaded: dict[Topic, int] = {}

    async def refresh(self) -> None:
        """Load what has changed; the first time everything.

        Raises:
            LedgerUnavailable: the store can't be read; what was not loaded will be, the next time.
        """
        # Read before the load: what changes in between is loaded once more, never missed.
        revisions = await self._ledger.revisions()
        for topic, load in self._loads.items():
            if self._loaded.get(topic) != revisions[topic]:
                await load()
                self._loaded[topic] = revisions[topic]

    async def run(self) -> None:
        """Keep up until cancelled, or until the ledger is closed."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.refresh()
            except LedgerClosed:
                return
            except LedgerUnavailable as error:
                _log.warning("store_not_followed error=%s", error)
