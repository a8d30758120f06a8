"""Whom alerts go to, and when: the section `alerts` as the rest of the program sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spendfuse.config.secret import Secret
from spendfuse.core.alerts import AlertKind, Severity

MINUTES_PER_DAY = 1_440


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From a minute of the day to another, in the config's time zone; over midnight where the second is the lower."""

    from_minute: int
    until_minute: int

    def minutes_left(self, minute: int) -> int:
        """How long they go on at this minute of the day; 0 outside of them."""
        length = (self.until_minute - self.from_minute) % MINUTES_PER_DAY
        passed = (minute - self.from_minute) % MINUTES_PER_DAY
        return max(0, length - passed)


@dataclass(frozen=True, slots=True)
class Channel:
    """Where messages go: an URL that apprise knows or, with `signs_with`, a webhook that gets signed JSON.

    `messages_per_hour` None: as many as there are.
    """

    name: str
    url: Secret
    signs_with: Secret | None = None
    quiet_hours: QuietHours | None = None
    messages_per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class AlertRoute:
    """Alerts of these kinds, at least so severe and, where `limit_names` has some, about one of those limits."""

    kinds: frozenset[AlertKind]
    channels: tuple[str, ...]
    severity: Severity = Severity.INFO
    limit_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Alerting:
    """The whole section. `weekly` and `monthly` are the channels that get the digest of a week or a month."""

    channels: Mapping[str, Channel] = field(default_factory=dict[str, Channel])
    routes: tuple[AlertRoute, ...] = ()
    weekly: tuple[str, ...] = ()
    monthly: tuple[str, ...] = ()
    dashboard_url: str | None = None
