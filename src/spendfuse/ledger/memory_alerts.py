"""Alerts and their outbox in memory, as every other engine keeps them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from spendfuse.core.alerts import Alert, AlertKind, Phase
from spendfuse.core.breakers import Phase as BreakerPhase
from spendfuse.ledger.alerts import (
    DUE_MAX,
    GIVEN_UP_SHOWN_MS,
    HOUR_MS,
    ChannelHealth,
    Delivery,
    DeliveryKey,
    Due,
    Ended,
    Fate,
    OutboxWork,
    Resolution,
    StoredAlert,
    opened_alert,
)
from spendfuse.ledger.breakers import BreakerChange
from spendfuse.ledger.operations import OutboxStep

WhyOver = Callable[[Alert], Resolution | None]
"""Why an alert is over, other than by its time; None while it is not."""


@dataclass(slots=True)
class MemoryOutbox:
    """Alerts by id, what of them is not routed, deliveries by key, and the lease."""

    alerts: dict[str, StoredAlert] = field(default_factory=dict[str, StoredAlert])
    unrouted: set[tuple[int, Phase]] = field(default_factory=set[tuple[int, Phase]])
    deliveries: dict[DeliveryKey, Delivery] = field(default_factory=dict[DeliveryKey, Delivery])
    holder: str = ""
    lease_until_ms: int = 0
    followed: int = 0
    """So many changes of breakers have become alerts."""

    def insert(self, alerts: Iterable[Alert], now_ms: int) -> bool:
        """Write alerts; True when one of them was not there already."""
        new = {one.alert_id: one for one in alerts if one.alert_id not in self.alerts}
        for alert in new.values():
            stored = StoredAlert(len(self.alerts) + 1, alert, now_ms)
            self.alerts[alert.alert_id] = stored
            self.unrouted.add((stored.number, Phase.RAISED))
        return bool(new)

    def has_work(self, holder: str, now_ms: int, why_over: WhyOver, changes: Sequence[BreakerChange]) -> bool:
        """See `AlertLedger.has_outbox_work`."""
        may_hold = self.holder == holder or self.lease_until_ms <= now_ms
        is_over = any(_resolution(one, now_ms, why_over) for one in self.alerts.values())
        return may_hold and bool(self.unrouted or is_over or self._due(now_ms) or changes[self.followed :])

    def step(
        self, operation: OutboxStep, now_ms: int, why_over: WhyOver, changes: Sequence[BreakerChange]
    ) -> OutboxWork | None:
        """See `AlertLedger.outbox_step`."""
        for ended in operation.ended:
            self._end(ended, now_ms)
        if self.holder != operation.holder and self.lease_until_ms > now_ms:
            return None
        self.holder, self.lease_until_ms = operation.holder, now_ms + operation.lease_ms
        self._resolve(now_ms, why_over)
        self._follow(changes, now_ms)
        for routed in operation.routed:
            self.unrouted.discard((routed.number, routed.phase))
            if routed.details is not None:
                stored = self._numbered()[routed.number]
                self.alerts[stored.alert.alert_id] = replace(stored, details=routed.details)
            for channel in routed.channels:
                key = DeliveryKey(routed.number, channel, routed.phase)
                self.deliveries.setdefault(key, Delivery(channel, routed.phase, next_try_at_ms=now_ms))
        for claim in operation.claims:
            for key in claim.keys:
                if (one := self.deliveries[key]).fate is Fate.PENDING:
                    first = now_ms if one.first_try_at_ms is None else one.first_try_at_ms
                    self.deliveries[key] = replace(
                        one,
                        attempts=one.attempts + 1,
                        next_try_at_ms=now_ms + claim.retry_in_ms,
                        first_try_at_ms=first,
                    )
        return self._work(now_ms)

    def listed(self, since_ms: int) -> list[StoredAlert]:
        """See `AlertLedger.alerts`."""
        found = [one for one in self.alerts.values() if one.raised_at_ms >= since_ms]
        return [replace(one, deliveries=self._deliveries_of(one.number)) for one in found]

    def health(self, now_ms: int) -> list[ChannelHealth]:
        """See `AlertLedger.channel_health`."""
        by_channel: dict[str, list[Delivery]] = {}
        for one in self.deliveries.values():
            is_given_up = one.fate is Fate.FAILED and (one.ended_at_ms or 0) >= now_ms - GIVEN_UP_SHOWN_MS
            if is_given_up or (one.fate is Fate.PENDING and one.error):
                by_channel.setdefault(one.channel, []).append(one)
        return [
            ChannelHealth(
                channel,
                sum(one.fate is Fate.PENDING for one in several),
                sum(one.fate is Fate.FAILED for one in several),
                max(one.error for one in several),
            )
            for channel, several in sorted(by_channel.items())
        ]

    def _work(self, now_ms: int) -> OutboxWork:
        sent: dict[str, tuple[int, ...]] = {}
        for one in sorted(self.deliveries.values(), key=lambda one: one.ended_at_ms or 0):
            if one.is_lead and one.ended_at_ms is not None and one.ended_at_ms > now_ms - HOUR_MS:
                sent[one.channel] = (*sent.get(one.channel, ()), one.ended_at_ms)
        numbered = self._numbered()
        order = {phase: place for place, phase in enumerate(Phase)}
        unrouted = sorted(self.unrouted, key=lambda one: (one[0], order[one[1]]))
        return OutboxWork(
            now_ms=now_ms,
            unrouted=tuple((numbered[number], phase) for number, phase in unrouted[:DUE_MAX]),
            due=tuple(self._due(now_ms)[:DUE_MAX]),
            sent_at_ms=sent,
        )

    def _due(self, now_ms: int) -> list[Due]:
        numbered = self._numbered()
        ready = [
            Due(numbered[key.number], one)
            for key, one in self.deliveries.items()
            if one.fate is Fate.PENDING and one.next_try_at_ms <= now_ms and not self._waits_for_raised(key)
        ]
        return sorted(ready, key=lambda one: (one.key.number, one.key.phase, one.key.channel))

    def _waits_for_raised(self, key: DeliveryKey) -> bool:
        """That an alert is over is told only once it was said that it is."""
        raised = self.deliveries.get(replace(key, phase=Phase.RAISED))
        return key.phase is Phase.RESOLVED and raised is not None and raised.fate is Fate.PENDING

    def _resolve(self, now_ms: int, why_over: WhyOver) -> None:
        for stored in list(self.alerts.values()):
            resolution = _resolution(stored, now_ms, why_over)
            if resolution is not None:
                self._note_over(stored, resolution, now_ms)

    def _note_over(self, stored: StoredAlert, resolution: Resolution, now_ms: int) -> None:
        over = replace(stored, resolved_at_ms=now_ms, resolution=resolution.value)
        self.alerts[stored.alert.alert_id] = over
        if stored.alert.kind.is_resolved:
            self.unrouted.add((stored.number, Phase.RESOLVED))

    def _follow(self, changes: Sequence[BreakerChange], now_ms: int) -> None:
        """Take in what breakers did since the last time."""
        for change in changes[self.followed :]:
            if change.after is BreakerPhase.CLOSED:
                for stored in list(self.alerts.values()):
                    alert = stored.alert
                    is_it = (alert.about, alert.subject) == (change.breaker, change.subject)
                    if is_it and alert.kind is AlertKind.BREAKER and stored.resolved_at_ms is None:
                        self._note_over(stored, Resolution.CLOSED, now_ms)
            alert = opened_alert(change)
            if alert is not None:
                self.insert([alert], now_ms)
        self.followed = len(changes)

    def _end(self, ended: Ended, now_ms: int) -> None:
        for place, key in enumerate(ended.keys):
            one = self.deliveries[key]
            if one.fate is Fate.PENDING:
                self.deliveries[key] = replace(
                    one,
                    fate=ended.fate,
                    next_try_at_ms=now_ms + ended.retry_in_ms,
                    ended_at_ms=None if ended.fate is Fate.PENDING else now_ms,
                    error=ended.error or (one.error if ended.fate is Fate.PENDING else ""),
                    is_lead=place == 0 and ended.fate is Fate.SENT,
                )

    def _deliveries_of(self, number: int) -> tuple[Delivery, ...]:
        found = [one for key, one in self.deliveries.items() if key.number == number]
        return tuple(sorted(found, key=lambda one: (one.phase, one.channel)))

    def _numbered(self) -> dict[int, StoredAlert]:
        return {one.number: one for one in self.alerts.values()}


def _resolution(stored: StoredAlert, now_ms: int, why_over: WhyOver) -> Resolution | None:
    if stored.resolved_at_ms is not None:
        return None
    if stored.alert.ends_at_ms is not None and stored.alert.ends_at_ms <= now_ms:
        return Resolution.TURNED
    return why_over(stored.alert)
