"""Alerts that no transaction of a call finds out: forecasts, digests, and that the store was away.

Every process looks for them; what makes two the same is their id, so each is written once.
"""

from spendfuse.alerting.digest import DigestPeriod, DigestSpan, digest_alert, last_span
from spendfuse.clock import Clock
from spendfuse.config import Config
from spendfuse.core.alerts import Alert, AlertKind, Severity, alert_id
from spendfuse.core.thresholds import forecast_alert
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.store import Ledger
from spendfuse.reports.forecast import outlooks

FORECAST_INTERVAL_S = 600.0
DIGEST_INTERVAL_S = 60.0
OUTAGE_BUCKET_MS = 60_000
"""Processes that were cut off from the store together come back within this time."""


class Observer:
    """What one process has seen."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._forecast_at_s = self._digest_at_s = 0.0
        self._digested: set[DigestSpan] = set()
        self._away_since_ms: int | None = None
        self._away_why = ""

    def configure(self, config: Config) -> None:
        """Look at these limits, and at their forecasts anew."""
        self._config = config
        self._digested.clear()
        self._forecast_at_s = self._digest_at_s = 0.0

    async def observe(self) -> None:
        """Write what is due.

        Raises:
            LedgerUnavailable: it is looked at again the next time.
        """
        now_s, now_ms = self._clock.monotonic_s(), self._now_ms()
        if now_s >= self._digest_at_s:
            await self._observe_digests(now_ms)
            self._digest_at_s = now_s + DIGEST_INTERVAL_S
        if now_s >= self._forecast_at_s:
            await self._observe_forecasts(now_ms)
            self._forecast_at_s = now_s + FORECAST_INTERVAL_S

    def note_outage(self, why: str) -> None:
        """The store could not be used just now."""
        if self._away_since_ms is None:
            self._away_since_ms, self._away_why = self._now_ms(), why

    async def tell_of_outage(self) -> None:
        """The store could be used just now: if it was away, say from when until when, once for all processes."""
        if self._away_since_ms is None:
            return
        from_ms, until_ms = self._away_since_ms, self._now_ms()
        known = await self._ledger.alerts(from_ms - OUTAGE_BUCKET_MS)
        is_told = any(
            one.alert.kind is AlertKind.STORE_DOWN and _number(one.alert, "until_ms") >= from_ms for one in known
        )
        if not is_told:
            await self._ledger.raise_alerts([outage_alert(from_ms, until_ms, self._away_why)])
        self._away_since_ms = None

    async def _observe_digests(self, now_ms: int) -> None:
        alerting, timezone = self._config.alerting, self._config.timezone
        wanted = ((DigestPeriod.WEEK, alerting.weekly), (DigestPeriod.MONTH, alerting.monthly))
        for period, channels in wanted:
            span = last_span(period, timezone, now_ms)
            if not channels or span in self._digested:
                continue
            # A store that is younger than the period has nothing to tell of it.
            if await self._ledger.spend("feature", since_ms=span.from_ms, until_ms=span.until_ms):
                await self._ledger.raise_alerts([digest_alert(span, timezone)])
            self._digested.add(span)

    async def _observe_forecasts(self, now_ms: int) -> None:
        found = await outlooks(self._ledger, [one for one in self._config.limits if one.alert_at], now_ms)
        alerts = [forecast_alert(one.limit, one.subject, one.window, one.course, now_ms) for one in found]
        await self._ledger.raise_alerts([one for one in alerts if one is not None])

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS


def outage_alert(from_ms: int, until_ms: int, why: str) -> Alert:
    """That the store was away. Processes that saw the same outage end it within a moment of each other."""
    return Alert(
        AlertKind.STORE_DOWN,
        alert_id(AlertKind.STORE_DOWN, until_ms // OUTAGE_BUCKET_MS),
        Severity.CRITICAL,
        {"from_ms": from_ms, "until_ms": until_ms, "why": why},
        ends_at_ms=until_ms,
    )


def _number(alert: Alert, name: str) -> int:
    value = alert.facts[name]
    assert isinstance(value, int)
    return value
