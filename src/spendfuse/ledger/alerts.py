"""Alerts as a store keeps them, and the outbox by which they are delivered: one row for each alert, channel and phase.

Whoever writes an alert knows no channels. One process at a time holds the outbox's lease: it *routes* what is new (says
which channels get it), *claims* a delivery before it sends it, and says how it *ended*. A claim that nobody ended, as
its process died, is due again when the time it was claimed for is over.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from spendfuse.core.alerts import Alert, AlertKind, Phase, Severity, alert_id
from spendfuse.core.breakers import Phase as BreakerPhase
from spendfuse.core.labels import subject_values
from spendfuse.ledger.breakers import BreakerChange

HOUR_MS = 3_600_000
DUE_MAX = 200
"""So many alerts to be routed, and deliveries that are due, are handed out at once."""
GIVEN_UP_SHOWN_MS = 24 * HOUR_MS
ALERTS_KEPT_MS = 180 * 24 * HOUR_MS
"""So long after it is over an alert is still listed."""
BIT = {Phase.RAISED: 1, Phase.RESOLVED: 2}
"""What of an alert is not routed yet, as stored."""


class Fate(StrEnum):
    """What became of a delivery."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    """Given up."""


class Resolution(StrEnum):
    """Why an alert is over."""

    TURNED = "turned"
    """Its time is over: for a limit, its window turned."""
    RAISED = "raised"
    """The limit's amount was raised."""
    GONE = "gone"
    """The limit is not in force any more."""
    CLEARED = "cleared"
    """A target's quotes are trusted again."""
    CLOSED = "closed"
    """A breaker closed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One alert to one channel, in one phase. A lead carried a message, alone or with others summed up in it."""

    channel: str
    phase: Phase
    fate: Fate = Fate.PENDING
    attempts: int = 0
    next_try_at_ms: int = 0
    first_try_at_ms: int | None = None
    ended_at_ms: int | None = None
    error: str = ""
    is_lead: bool = False


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert with its number in the store, ascending. `details` is what was found out about it when it was routed, as
    JSON; `resolution` is empty until it is over.
    """

    number: int
    alert: Alert
    raised_at_ms: int
    resolved_at_ms: int | None = None
    resolution: str = ""
    details: str = ""
    deliveries: tuple[Delivery, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    """Which delivery: an alert's number, a channel, a phase."""

    number: int
    channel: str
    phase: Phase


@dataclass(frozen=True, slots=True)
class Routed:
    """Which channels get a phase of an alert; none is an answer too. `details` None leaves them."""

    number: int
    phase: Phase
    channels: tuple[str, ...]
    details: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Deliveries about to be sent as one message; due again after `retry_in_ms` if nobody says how they ended."""

    keys: tuple[DeliveryKey, ...]
    retry_in_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How the sending of one message ended. Still pending: to be tried again in `retry_in_ms`, whether it failed or
    must wait (then without an error)."""

    keys: tuple[DeliveryKey, ...]
    fate: Fate
    retry_in_ms: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery to be sent now."""

    stored: StoredAlert
    delivery: Delivery

    @property
    def key(self) -> DeliveryKey:
        return DeliveryKey(self.stored.number, self.delivery.channel, self.delivery.phase)


@dataclass(frozen=True, slots=True)
class OutboxWork:
    """What the holder of the outbox's lease has to do, by the store's clock. `sent_at_ms` are the messages of each
    channel in the last hour, ascending."""

    now_ms: int
    unrouted: tuple[tuple[StoredAlert, Phase], ...] = ()
    due: tuple[Due, ...] = ()
    sent_at_ms: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])


@dataclass(frozen=True, slots=True)
class ChannelHealth:
    """A channel that messages do not get through to: how many wait to be tried again, how many were given up in the
    last day, and why."""

    channel: str
    waiting: int
    failed: int
    error: str


AlertRow = tuple[str, str, str, str, str, int | None, int | None, str, int, int]


def alert_row(alert: Alert, now_ms: int) -> AlertRow:
    """An alert as it is inserted: id, kind, severity, about, subject, amount, end, facts, time, what is not routed."""
    facts = json.dumps(dict(alert.facts), ensure_ascii=False, separators=(",", ":"))
    kind, severity = alert.kind.value, alert.severity.value
    head = (alert.alert_id, kind, severity, alert.about, alert.subject, alert.amount, alert.ends_at_ms)
    return (*head, facts, now_ms, BIT[Phase.RAISED])


def stored_alert(row: Sequence[Any]) -> StoredAlert:
    """An alert as it is read: number, id, kind, severity, about, subject, amount, end, facts, times, resolution,
    details."""
    number, identity, kind, severity, about, subject, amount, ends_at_ms, facts, *further = row
    raised_at_ms, resolved_at_ms, resolution, details = further
    alert = Alert(AlertKind(kind), identity, Severity(severity), json.loads(facts), about, subject, amount, ends_at_ms)
    return StoredAlert(number, alert, raised_at_ms, resolved_at_ms, resolution, details)


ALERT_COLUMNS = 13
"""So many columns `stored_alert` takes."""


def delivery_of(row: Sequence[Any]) -> Delivery:
    """A delivery as it is read: channel, phase, fate, attempts, times, error, whether it is a lead."""
    channel, phase, fate, attempts, next_try_at_ms, first_try_at_ms, ended_at_ms, error, is_lead = row
    times = (next_try_at_ms, first_try_at_ms, ended_at_ms)
    return Delivery(channel, Phase(phase), Fate(fate), attempts, *times, error, bool(is_lead))


def unrouted_of(rows: Iterable[Sequence[Any]]) -> tuple[tuple[StoredAlert, Phase], ...]:
    """Alerts as read, each with the bits of what is not routed of it, the raised phase first."""
    found = [(stored_alert(row[:ALERT_COLUMNS]), int(row[ALERT_COLUMNS])) for row in rows]
    return tuple((stored, phase) for stored, bits in found for phase in Phase if bits & BIT[phase])


def due_of(rows: Iterable[Sequence[Any]]) -> tuple[Due, ...]:
    """Deliveries as read, each behind its alert."""
    return tuple(Due(stored_alert(row[:ALERT_COLUMNS]), delivery_of(row[ALERT_COLUMNS:])) for row in rows)


def sent_of(rows: Iterable[Sequence[Any]]) -> dict[str, tuple[int, ...]]:
    """Channels and times of messages, in order of time, by channel."""
    sent: dict[str, tuple[int, ...]] = {}
    for channel, at_ms in rows:
        sent[channel] = (*sent.get(channel, ()), at_ms)
    return sent


def with_deliveries(alerts: Iterable[StoredAlert], rows: Iterable[Sequence[Any]]) -> list[StoredAlert]:
    """Alerts with their deliveries, read as rows that begin with the alert's number."""
    by_number: dict[int, list[Delivery]] = {}
    for number, *row in rows:
        by_number.setdefault(number, []).append(delivery_of(row))
    return [replace(one, deliveries=tuple(by_number.get(one.number, ()))) for one in alerts]


def opened_alert(change: BreakerChange) -> Alert | None:
    """What is told of a change: that a breaker which was closed is so no more. From then on until it closes, as it
    tries again and fails, it is the same trouble still."""
    if change.before is not BreakerPhase.CLOSED:
        return None
    pairs = zip(change.each, subject_values(change.subject), strict=True)
    return Alert(
        kind=AlertKind.BREAKER,
        alert_id=alert_id(AlertKind.BREAKER, change.breaker, change.subject, change.number),
        severity=Severity.CRITICAL,
        facts={
            "breaker": change.breaker,
            "subject": ", ".join(f"{name}={value or '(none)'}" for name, value in pairs),
            "phase": change.after.value,
            "why": change.why,
            "who": change.who,
            "at_ms": change.at_ms,
        },
        about=change.breaker,
        subject=change.subject,
    )


class AlertLedger(Protocol):
    """What the ledger does about alerts. All time is the store's own."""

    async def raise_alerts(self, alerts: Sequence[Alert]) -> bool:
        """Write alerts that no other verb writes; False when all of them were there already.

        Invariant 16: of those with one id only the first is an alert, whichever process writes it. Alerts about limits
        are written by the very transaction that reaches the threshold.
        """
        ...

    async def has_outbox_work(self, holder: str) -> bool:
        """Whether `outbox_step` has something to do, and no other process is about it. Cheap enough to ask every second
        in every process."""
        ...

    async def outbox_step(
        self,
        holder: str,
        *,
        lease_s: float,
        routed: Sequence[Routed] = (),
        claims: Sequence[Claim] = (),
        ended: Sequence[Ended] = (),
    ) -> OutboxWork | None:
        """Take or renew the lease of the outbox, write what was decided or has happened, end the alerts that are over,
        and learn what is to be done next; in one transaction.

        None where another process has the lease: then only what `ended` is written. A message may be sent once its
        claim has come back with work.
        """
        ...

    async def alerts(self, since_ms: int) -> Sequence[StoredAlert]:
        """Alerts since an instant with their deliveries, the oldest first."""
        ...

    async def channel_health(self) -> Sequence[ChannelHealth]:
        """The channels that could not take what still waits for them."""
        ...
