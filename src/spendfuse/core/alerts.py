"""Alerts: what people are told once, and what makes two of them the same.

An alert is written by whoever finds it out, in the transaction that made it true where there is one, and delivered
later. Its facts are plain values, so that any version can show what another one wrote.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class AlertKind(StrEnum):
    """What an alert is about; the names that routes use."""

    THRESHOLD = "threshold"
    """A limit's balance has reached a share of its amount; at 100 % it is *spent*."""
    FORECAST = "forecast"
    """At its rate a limit will be spent before its window turns."""
    BREAKER = "breaker"
    OVERRUN = "overrun"
    """A target charged more than it was quoted at."""
    DRIFT = "drift"
    UNPRICED = "unpriced"
    """A model was asked for that has no known price."""
    STORE_DOWN = "store_down"
    DIGEST = "digest"

    @property
    def is_resolved(self) -> bool:
        """Whether people are told when it is over: the others are over as soon as they are said."""
        return self in (AlertKind.THRESHOLD, AlertKind.FORECAST, AlertKind.BREAKER, AlertKind.OVERRUN, AlertKind.DRIFT)


class Severity(StrEnum):
    """How soon somebody should look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Phase(StrEnum):
    """What is told of an alert: that it is, then that it is over."""

    RAISED = "raised"
    RESOLVED = "resolved"


Fact = str | int | None
Facts = Mapping[str, Fact]
"""Names and plain values: amounts in the limit's unit, times in milliseconds since the epoch (`…_ms`)."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. Two with the same `alert_id` are the same one, whoever writes them: the second is none.

    `about` is a limit's identity, a breaker or a target; with `subject` it says what the alert stands or falls with.
    `amount` is the limit's amount that it was measured by: a higher one ends it. `ends_at_ms` is when it is over by
    itself; None: not by time.
    """

    kind: AlertKind
    alert_id: str
    severity: Severity
    facts: Facts = field(default_factory=dict[str, Fact])
    about: str = ""
    subject: str = ""
    amount: int | None = None
    ends_at_ms: int | None = None


def alert_id(kind: AlertKind, *parts: str | int) -> str:
    """What identifies an alert, in the store and to receivers: 32 hexadecimal digits of the hash of its parts."""
    text = json.dumps([kind.value, *parts], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
