"""Calls that are served without a reservation while the store is away, because all their limits say so.

Failure policy: closed. A limit of money, tokens or calls in flight never says so, and where no limit covers a call,
nothing does. A call is on this host's disk before it goes out, at its quote, and its true charge after it, so that what
it cost comes to the ledger whatever happens to this process.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from spendfuse.core.errors import LedgerClosed, LedgerUnavailable, LimitsOutdated
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit
from spendfuse.core.reservations import CallId, reservation_of, reservation_text
from spendfuse.core.windows import NS_PER_MS
from spendfuse.gate.endings import Held
from spendfuse.gate.reservations import OpenReservation
from spendfuse.gate.shared import Shared
from spendfuse.ledger.operations import Record
from spendfuse.ledger.store import Demand

logger = logging.getLogger("spendfuse.gate")

UNRESERVED_ATTEMPT = 2
"""The number of an entry that no reservation has."""
UNRESERVED_HEADER = ("x-spendfuse-unreserved", "store-down")


class Unreserved:
    """Admits calls without a reservation, under one set of limits."""

    def __init__(self, limits: Sequence[Limit], shared: Shared) -> None:
        self._limits = limits
        self._some_admit = any(one.admits_unreserved for one in limits)
        self._ledger = shared.ledger
        self._spool = shared.spool
        self._endings = shared.endings
        self._clock = shared.clock

    async def begin(self, call_id: CallId, demand: Demand, error: LedgerUnavailable) -> OpenReservation | None:
        """Begin a call of which the ledger said this; None where it has to be refused.

        Its entry has an id of its own: nobody knows yet what became of the reservation that the ledger was asked for.
        """
        if not self._may_begin(demand.labels, error):
            return None
        held = Held(demand.quote, demand.caps.wanted)
        demand = replace(demand, reservation_id=reservation_of(call_id, UNRESERVED_ATTEMPT))
        charge = held.charge_of_output(held.output_tokens)
        record = Record(demand, charge, self._clock.now_ns() // NS_PER_MS)
        if not await self._spool.begin(record):
            return None
        logger.warning("call_unreserved reservation_id=%s reason=store_down", reservation_text(record.reservation_id))
        return self._endings.begun(record, held)

    def _may_begin(self, labels: Labels, error: LedgerUnavailable) -> bool:
        """Whether the store is known to be away, which is more than that it failed once, and all limits allow it."""
        if not self._some_admit or self._ledger.outage is None or isinstance(error, LedgerClosed | LimitsOutdated):
            return False
        covering = [one for one in self._limits if one.covers(labels)]
        return bool(covering) and all(one.admits_unreserved for one in covering)
