"""Which channels get an alert, and which of what waits for a channel is sent next, or when. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from spendfuse.config.alerts import Alerting, Channel
from spendfuse.core.alerts import Alert, AlertKind, Phase, Severity
from spendfuse.core.breakers import Breaker, Drift
from spendfuse.core.windows import MS_PER_S
from spendfuse.ledger.alerts import HOUR_MS, Due

MINUTE_MS = 60_000
RETRY_FIRST_MS = 2_000
RETRY_MAX_MS = 300_000
GIVEN_UP_AFTER_MS = 24 * HOUR_MS
"""So long a message is tried."""
_INCIDENTS = ("pagerduty", "opsgenie", "webhook", "https", "http")
"""Channels for programs, which keep an alert open until it is told to be over."""
_SEVERITIES = list(Severity)


def channels_of(alerting: Alerting, alert: Alert, phase: Phase, kind: AlertKind) -> tuple[str, ...]:
    """Who is told of an alert, or of its end; `kind` is what it is by the config (see `kind_of`).

    Of its end: of those who were told of it, programs always, people only where it was critical, as "80 % is over" at
    every midnight is no news.
    """
    told = _told(alerting, alert, kind)
    if phase is Phase.RAISED or alert.severity is Severity.CRITICAL:
        return told
    return tuple(name for name in told if is_for_programs(alerting.channels[name]))


def kind_of(alert: Alert, breakers: Sequence[Breaker]) -> AlertKind:
    """What an alert is about: of a breaker that watches for drift it is the drift, which the store can't tell."""
    if alert.kind is not AlertKind.BREAKER:
        return alert.kind
    watches_drift = any(one.name == alert.about and isinstance(one.trigger, Drift) for one in breakers)
    return AlertKind.DRIFT if watches_drift else AlertKind.BREAKER


def is_for_programs(channel: Channel) -> bool:
    """Whether a program takes the messages, rather than people."""
    return channel.url.reveal().partition("://")[0].lower() in _INCIDENTS


def _told(alerting: Alerting, alert: Alert, kind: AlertKind) -> tuple[str, ...]:
    if kind is AlertKind.DIGEST:
        channels = alerting.weekly if alert.facts["period"] == "week" else alerting.monthly
        return tuple(dict.fromkeys(channels))
    found = [
        name
        for route in alerting.routes
        if kind in route.kinds
        and _SEVERITIES.index(alert.severity) >= _SEVERITIES.index(route.severity)
        and (not route.limit_names or alert.facts.get("limit") in route.limit_names)
        for name in route.channels
    ]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Sending:
    """Deliveries to be sent now, as one message."""

    due: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Deliveries that have to wait."""

    due: tuple[Due, ...]
    for_ms: int


def next_message(
    channel: Channel, due: Sequence[Due], *, sent_at_ms: Sequence[int], now_ms: int, timezone: str
) -> Sending | Waiting:
    """What to do with what is due for a channel, at least one, the oldest first.

    In quiet hours nothing is sent. Within its cap each alert is a message of its own; the last that the cap allows sums
    up all that waits, and what comes after it waits until an hour has passed since the first.
    """
    quiet_ms = _quiet_ms(channel, now_ms, timezone)
    if quiet_ms:
        return Waiting(tuple(due), quiet_ms)
    cap = channel.messages_per_hour
    if cap is None:
        return Sending((due[0],))
    recent = [at_ms for at_ms in sent_at_ms if at_ms > now_ms - HOUR_MS]
    left = cap - len(recent)
    if left <= 0:
        return Waiting(tuple(due), recent[-cap] + HOUR_MS - now_ms + 1)
    return Sending(tuple(due) if left == 1 else (due[0],))


def retry_in_ms(attempts: int) -> int:
    """How long a failed try is waited for before the next: 2 s, 4 s, 8 s, … 5 min."""
    return min(RETRY_MAX_MS, RETRY_FIRST_MS << min(attempts - 1, 16))


def _quiet_ms(channel: Channel, now_ms: int, timezone: str) -> int:
    """How long the quiet hours go on; 0 outside of them."""
    if channel.quiet_hours is None:
        return 0
    local = datetime.fromtimestamp(now_ms / MS_PER_S, UTC).astimezone(ZoneInfo(timezone))
    minutes = channel.quiet_hours.minutes_left(local.hour * 60 + local.minute)
    return minutes * MINUTE_MS - now_ms % MINUTE_MS if minutes else 0
