"""Keeps what nobody else ends: renews this process's lease and expires reservations whose owner is gone or too late.

Failure policy: see `rounds`.
"""

import logging

from spendfuse.core.reservations import reservation_text
from spendfuse.ledger.rounds import Rounds
from spendfuse.ledger.store import Ledger

KEEPER_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


class Keeper(Rounds):
    """Calls `Ledger.expire_due` at an interval, which also renews the lease."""

    def __init__(self, ledger: Ledger, *, interval_s: float = KEEPER_INTERVAL_S) -> None:
        super().__init__("expiry", interval_s)
        self._ledger = ledger

    async def _round(self) -> float:
        for entry in await self._ledger.expire_due():
            _log.warning(
                "reservation_expired reservation_id=%s charged_nanos=%d",
                reservation_text(entry.reservation_id),
                entry.amounts.cost,
            )
        return self._interval_s
