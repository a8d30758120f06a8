"""What people write for when a report begins or ends."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from spendfuse.core.windows import MS_PER_S, Calendar, CalendarUnit, window_at

_AGO = re.compile(r"([1-9][0-9]{0,4})(m|h|d|w)")
_AGO_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class InstantInvalid(ValueError):
    """A text names no instant."""


def instant_ms(text: str, *, now_ms: int, timezone: str) -> int:
    """Milliseconds since the epoch.

    `7d` (or m, h, w) is so long before now; `day`, `week` or `month` is where the current one began; a date is its
    midnight and a date with a time that instant, both in the time zone unless they name an offset.

    Raises:
        InstantInvalid: none of these.
    """
    if ago := _AGO.fullmatch(text):
        return now_ms - int(ago[1]) * _AGO_MS[ago[2]]
    if text in tuple(CalendarUnit):
        return window_at(Calendar(CalendarUnit(text), timezone), now_ms).starts_at_ms
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InstantInvalid(
            f"{text!r} is no time: expected a span back from now (7d, 12h), day, week, month, or a date (2026-11-01)"
        ) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=ZoneInfo(timezone))
    return round(instant.timestamp() * MS_PER_S)
