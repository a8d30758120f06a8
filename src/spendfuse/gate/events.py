"""What the gate tells of refused calls: counts per hour, never one line each, so that a storm of refusals stays cheap.

Failure policy: open. Counts are for reports, not for limits; those that come while the store is away are kept for the
next try, and lost with the process; those that it refuses are dropped.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable

from spendfuse.core.decisions import Reason
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.labels import Labels
from spendfuse.core.refusals import Deny
from spendfuse.ledger.store import Ledger, RefusalCount

logger = logging.getLogger("spendfuse.gate")
FLUSH_S = 1.0
KINDS_MAX = 10_000
"""Different kinds held between two flushes; beyond it users and features are no longer told apart."""


class RefusalCounts:
    """Refusals since the last flush, by code, limit, feature and user."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._counts: Counter[RefusalCount] = Counter()

    def count(self, deny: Deny, labels: Labels) -> None:
        """Count a refused call, under each limit, or the breaker, that refused it.

        One refused for a subject that would be new is not told apart by user: there may be any number of those.
        """
        if any(reason.opens for reason in deny.reasons):
            labels = {}
        limits = [reason.limit.name for reason in deny.reasons] or [deny.breaker_name]
        self._add(((deny.code.text, name) for name in limits), labels, shadow=False)

    def count_shadow(self, reasons: tuple[Reason, ...], labels: Labels) -> None:
        """Count an admitted call that shadow limits would have refused."""
        self._add(((reason.shortfall.value, reason.limit.name) for reason in reasons), labels, shadow=True)

    def _add(self, kinds: Iterable[tuple[str, str]], labels: Labels, *, shadow: bool) -> None:
        told_apart = len(self._counts) < KINDS_MAX
        feature = labels.get("feature", "") if told_apart else ""
        user = labels.get("user", "") if told_apart else ""
        for code, limit_name in kinds:
            self._counts[RefusalCount(code, limit_name, feature, user, shadow=shadow)] += 1

    async def run(self) -> None:
        """Flush every second until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Hand the counts to the ledger."""
        if not self._counts:
            return
        counts, self._counts = self._counts, Counter()
        rows = [
            RefusalCount(one.code, one.limit_name, one.feature, one.user, number, one.shadow)
            for one, number in counts.items()
        ]
        try:
            await self._ledger.count_refusals(rows)
        except LedgerUnavailable as error:
            logger.warning("refusal_counts_postponed kinds=%d error=%s", len(rows), error)
            self._counts.update(counts)
        except LedgerError as error:
            logger.error("refusal_counts_dropped kinds=%d error=%s", len(rows), error)
