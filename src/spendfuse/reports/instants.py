"""What people write for when a report begins or ends, or until when something holds."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from spendfuse.core.windows import MS_PER_S, Calendar, CalendarUnit, window_at

_SPAN = re.compile(r"([1-9][0-9]{0,4})(m|h|d|w)")
_SPAN_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class InstantInvalid(ValueError):
    """A text names no instant, or not one of the side of now that it must lie on."""


def instant_ms(text: str, *, now_ms: int, timezone: str) -> int:
    """Milliseconds since the epoch.

    `7d` (or m, h, w) is so long before now; `day`, `week` or `month` is where the current one began; a date is its
    midnight and a date with a time that instant, both in the time zone unless they name an offset.

    Raises:
        InstantInvalid: none of these.
    """
    if span_ms := _span_ms(text):
        return now_ms - span_ms
    if text in tuple(CalendarUnit):
        return window_at(Calendar(CalendarUnit(text), timezone), now_ms).starts_at_ms
    return _date_ms(text, timezone, else_a="span back from now (7d, 12h), day, week, month, or a date (2026-11-01)")


def end_ms(text: str, *, now_ms: int, timezone: str) -> int:
    """Milliseconds since the epoch, after now.

    `7d` (or m, h, w) is so long from now; dates are read as by `instant_ms`.

    Raises:
        InstantInvalid: neither of these, or over already.
    """
    if span_ms := _span_ms(text):
        return now_ms + span_ms
    found = _date_ms(text, timezone, else_a="span from now (2h, 3d) or a date (2026-12-01, 2026-12-01T18:00)")
    if found <= now_ms:
        raise InstantInvalid(f"{text!r} is over already: expected a time to come")
    return found


def _span_ms(text: str) -> int:
    """How long; 0 for what is no span."""
    span = _SPAN.fullmatch(text)
    return 0 if span is None else int(span[1]) * _SPAN_MS[span[2]]


def _date_ms(text: str, timezone: str, *, else_a: str) -> int:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InstantInvalid(f"{text!r} is no time: expected a {else_a}") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=ZoneInfo(timezone))
    return round(instant.timestamp() * MS_PER_S)
