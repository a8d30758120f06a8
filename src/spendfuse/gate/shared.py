"""What the gates of one process share, and what lives on when a reload puts another gate in place of the last one."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from spendfuse.clock import Clock
from spendfuse.core.refusals import Deny
from spendfuse.core.reservations import CallIds
from spendfuse.gate.breakers import Breakers
from spendfuse.gate.events import RefusalCounts
from spendfuse.gate.learned import LearnedCaps
from spendfuse.gate.overruns import Overruns
from spendfuse.gate.reservations import Endings
from spendfuse.gate.spent import SpentLimits
from spendfuse.gate.unpriced import UnpricedModels
from spendfuse.ledger.spool import Spool
from spendfuse.ledger.store import Ledger
from spendfuse.upstream.client import UpstreamClient


class Shared:
    """One ledger with its spool, one upstream client, and what calls leave behind, whichever gate they came through."""

    def __init__(self, ledger: Ledger, spool: Spool, client: UpstreamClient, clock: Clock) -> None:
        self.ledger = ledger
        self.spool = spool
        self.client = client
        self.clock = clock
        self.ids = CallIds()
        self.overruns = Overruns(ledger)
        self.learned = LearnedCaps()
        self.endings = Endings(ledger, spool)
        self.refusals = RefusalCounts(ledger)
        self.breakers = Breakers(ledger, clock)
        self.spent = SpentLimits(ledger, self.breakers.limits_spent)
        self.unpriced = UnpricedModels(ledger, clock)
        self._finishing: set[asyncio.Task[Deny | None]] = set()

    async def finish(self, attempt: Coroutine[Any, Any, Deny | None]) -> Deny | None:
        """Run an attempt to its end, also when its caller is cancelled."""
        finishing = asyncio.create_task(attempt)
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)
        return await asyncio.shield(finishing)

    async def spent_ended(self) -> None:
        """An amount was raised, and what was spent no longer is: for a `Follower` to call."""
        self.spent.forget()
        self.breakers.limits_spent()

    async def drain(self, timeout_s: float) -> None:
        """Wait for calls that go on without their client, cutting those that outlast the time, then for the ends of all
        reservations.
        """
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=timeout_s)
            for late in tuple(self._finishing):
                late.cancel()
            await asyncio.gather(*self._finishing, return_exceptions=True)
        await self.endings.drain(timeout_s)
        await self.refusals.flush()
        await self.spent.flush()
        await self.breakers.close()
