"""When a limit's balance starts anew.

A window is half-open, `[starts_at, ends_at)`, in milliseconds since the epoch, and has a number that is unique and
ascending within its period. Calendar windows follow the wall clock of a time zone, so a day lasts 23 to 25 hours over
a change of daylight saving time; spans are aligned to the epoch.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

MS_PER_S = 1_000
NS_PER_MS = 1_000_000
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH_MONDAY_ORDINAL = date(1969, 12, 29).toordinal()


class CalendarUnit(StrEnum):
    """A calendar period; a week is ISO's, Monday to Sunday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Calendar:
    """Calendar windows in a time zone (an IANA name)."""

    unit: CalendarUnit
    timezone: str = "UTC"

    def __str__(self) -> str:
        return self.unit.value


@dataclass(frozen=True, slots=True)
class Span:
    """Fixed windows of so many milliseconds, aligned to the epoch; for `requests` the span over which they refill."""

    ms: int

    def __str__(self) -> str:
        for name, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
            if self.ms % unit_ms == 0:
                return f"{self.ms // unit_ms}{name}"
        return f"{self.ms}ms"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """One window that never ends."""

    def __str__(self) -> str:
        return "lifetime"


Period = Calendar | Span | Lifetime


@dataclass(frozen=True, slots=True)
class Window:
    """One window; `ends_at_ms` is None for a lifetime, whose start is 0."""

    number: int
    starts_at_ms: int
    ends_at_ms: int | None

    def holds(self, now_ms: int) -> bool:
        """Whether the instant lies in this window."""
        return self.starts_at_ms <= now_ms and (self.ends_at_ms is None or now_ms < self.ends_at_ms)


LIFETIME_WINDOW = Window(0, 0, None)


def window_at(period: Period, now_ms: int) -> Window:
    """The window of a period that holds an instant.

    A local midnight that a change of daylight saving time skips is the instant of the change; one that occurs twice is
    its first occurrence.
    """
    match period:
        case Lifetime():
            return LIFETIME_WINDOW
        case Span(ms=ms):
            number = now_ms // ms
            return Window(number, number * ms, (number + 1) * ms)
        case Calendar():
            return _calendar_window(period, now_ms)


def _calendar_window(period: Calendar, now_ms: int) -> Window:
    zone = ZoneInfo(period.timezone)
    local = datetime.fromtimestamp(now_ms / MS_PER_S, UTC).astimezone(zone).date()
    window = _window_of_date(period, local)
    # The clocks can go back over midnight: the local date then names a window that has not begun, or one already over.
    if now_ms < window.starts_at_ms:
        return _window_of_date(period, _first_date(period, local) - timedelta(days=1))
    if window.ends_at_ms is not None and now_ms >= window.ends_at_ms:
        return _window_of_date(period, _next_first_date(period, local))
    return window


def _first_date(period: Calendar, day: date) -> date:
    match period.unit:
        case CalendarUnit.DAY:
            return day
        case CalendarUnit.WEEK:
            return day - timedelta(days=day.weekday())
        case CalendarUnit.MONTH:
            return day.replace(day=1)


def _next_first_date(period: Calendar, day: date) -> date:
    first = _first_date(period, day)
    match period.unit:
        case CalendarUnit.DAY:
            return first + timedelta(days=1)
        case CalendarUnit.WEEK:
            return first + timedelta(days=7)
        case CalendarUnit.MONTH:
            return (first + timedelta(days=31)).replace(day=1)


def _window_of_date(period: Calendar, day: date) -> Window:
    return _window_from(period, _first_date(period, day))


@lru_cache(maxsize=256)
def _window_from(period: Calendar, first: date) -> Window:
    zone = ZoneInfo(period.timezone)
    return Window(
        _number(period.unit, first), _midnight_ms(first, zone), _midnight_ms(_next_first_date(period, first), zone)
    )


def _number(unit: CalendarUnit, first: date) -> int:
    match unit:
        case CalendarUnit.DAY:
            return first.toordinal() - _EPOCH_ORDINAL
        case CalendarUnit.WEEK:
            return (first.toordinal() - _EPOCH_MONDAY_ORDINAL) // 7
        case CalendarUnit.MONTH:
            return first.year * 12 + first.month - 1


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    return round(datetime.combine(day, time(), zone).timestamp() * MS_PER_S)


@dataclass(frozen=True, slots=True)
class Refill:
    """A rate that refills smoothly: the generic cell rate algorithm (ITU-T I.371) over nanoseconds.

    Its state is one number, the theoretical arrival time (TAT) of the next request were all to come evenly spaced.
    `amount` requests may pass per `per_ns`; up to `burst` at once. Over any `per_ns` at most `amount + burst` pass.
    """

    amount: int
    per_ns: int
    burst: int

    def __post_init__(self) -> None:
        if self.amount < 1 or self.burst < 1 or self.per_ns < 1:
            raise ValueError("a rate needs an amount, a burst and a span of at least 1")

    def admit(self, tat_ns: int, now_ns: int) -> tuple[int, Literal[0]] | tuple[None, int]:
        """Try to pass one request: (the new TAT, 0), or (None, the instant at which it would pass)."""
        after_ns = max(tat_ns, now_ns) + -(-self.per_ns // self.amount)
        tolerance_ns = self.burst * -(-self.per_ns // self.amount)
        if after_ns - now_ns <= tolerance_ns:
            return after_ns, 0
        return None, after_ns - tolerance_ns

    def available(self, tat_ns: int, now_ns: int) -> int:
        """How many requests would pass now, one after the other."""
        each_ns = -(-self.per_ns // self.amount)
        return max(0, (self.burst * each_ns - max(0, tat_ns - now_ns)) // each_ns)
