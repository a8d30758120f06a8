"""Keeps the store small and its reports fast, a piece at a time, behind the calls.

Every process does so: pieces take turns by the store's lock, and what one has done is not left for another to do.

Failure policy: see `rounds`.
"""

from spendfuse.ledger.rounds import Rounds
from spendfuse.ledger.store import Ledger

UPKEEP_INTERVAL_S = 60.0
PAUSE_S = 0.1
"""Between pieces, of which each takes some milliseconds: calls have the store for more than nine tenths of the time."""


class Caretaker(Rounds):
    """Calls `Ledger.upkeep` until nothing is left to do, and again at an interval.

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
        super().__init__("upkeep", interval_s)
        self._ledger = ledger
        self._retention_ms = None if retention_s is None else int(retention_s * 1_000)
        self._pause_s = pause_s

    async def _round(self) -> float:
        return self._pause_s if await self._ledger.upkeep(self._retention_ms) else self._interval_s
