"""Models that were asked for and have no known price: told once a day each, behind the refusal.

Failure policy: open. What comes while the store is away is kept for the next try.
"""

import asyncio
import logging

from spendfuse.clock import Clock
from spendfuse.core.alerts import Alert, AlertKind, Severity, alert_id
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.thresholds import DAY_MS
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.store import Ledger

logger = logging.getLogger("spendfuse.gate")
_RETRY_S = 1.0


class UnpricedModels:
    """Those of this process that the store has not been told of, and those that it has."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._told: set[str] = set()
        self._day = 0
        self._untold: list[Alert] = []
        self._waiting = asyncio.Event()

    def note(self, deny: Deny, model: str) -> None:
        """Take note of a refusal. Only models of the config can be without a price, so these are few."""
        if deny.code is not Code.MODEL_NOT_PRICED:
            return
        day = self._clock.now_ns() // NS_PER_MS // DAY_MS
        if day != self._day:
            self._told.clear()
            self._day = day
        if model not in self._told:
            self._told.add(model)
            self._untold.append(unpriced_alert(model, deny.message, day))
            self._waiting.set()

    async def run(self) -> None:
        """Tell the store until cancelled."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            alerts, self._untold = self._untold, []
            try:
                await self._ledger.raise_alerts(alerts)
            except LedgerUnavailable:
                self._untold = [*alerts, *self._untold]
                await asyncio.sleep(_RETRY_S)
                self._waiting.set()
            except LedgerError as error:
                logger.error("unpriced_models_dropped models=%d error=%s", len(alerts), error)


def unpriced_alert(model: str, why: str, day: int) -> Alert:
    """That no price is known for what was asked of a model, once for each day since the epoch."""
    facts = {"model": model, "why": why}
    number = alert_id(AlertKind.UNPRICED, model, day)
    return Alert(AlertKind.UNPRICED, number, Severity.WARNING, facts, about=model, ends_at_ms=(day + 1) * DAY_MS)
