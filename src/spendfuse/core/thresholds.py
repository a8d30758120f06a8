"""Thresholds: which shares of its amount a balance has reached, and when it will be spent at its rate. Pure.

A share is reached when that part of the amount is settled; what calls in flight hold does not count, as it may come
back. The last share, 100 %, follows *spent* instead (`spent_alert`), as the last few tokens may never be usable; but
not for limits that never refuse, nor for requests, which are used to the last one.

A threshold is a share of an amount: when the amount is raised, the shares of the new one are thresholds of their own.
"""

from dataclasses import dataclass

from spendfuse.core.alerts import Alert, AlertKind, Severity, alert_id
from spendfuse.core.labels import subject_values
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.windows import Window

WHOLE = 100
"""The share, in percent, at which a limit is spent."""
DAY_MS = 86_400_000
_YOUNG = 4
"""A window of a day or less tells no rate before this part (a quarter) of it is over."""


def shares_of_settled(limit: Limit) -> tuple[int, ...]:
    """The shares that follow what is settled, ascending."""
    follows_spent = limit.is_enforced and limit.unit.is_consumable
    return tuple(share for share in sorted(set(limit.alert_at)) if share < WHOLE or not follows_spent)


def shares_reached(limit: Limit, *, amount: int, settled: int) -> tuple[int, ...]:
    """The shares of an amount that are settled, ascending. Nothing is a share of an amount of nothing."""
    if amount <= 0:
        return ()
    return tuple(share for share in shares_of_settled(limit) if settled >= _amount_at(share, amount))


def next_share_at(limit: Limit, *, amount: int, settled: int) -> int:
    """What has to be settled to reach the next share; more than can ever be where there is none."""
    if amount <= 0:
        return AMOUNT_MAX
    further = (_amount_at(share, amount) for share in shares_of_settled(limit))
    return next((one for one in further if one > settled), AMOUNT_MAX)


def threshold_alert(limit: Limit, subject: str, window: Window, *, share: int, amount: int, settled: int) -> Alert:
    """That a share of an amount is reached."""
    return Alert(
        kind=AlertKind.THRESHOLD,
        alert_id=alert_id(AlertKind.THRESHOLD, limit.identity, subject, window.number, share, amount),
        severity=Severity.CRITICAL if share >= WHOLE else Severity.WARNING,
        facts=_facts(limit, subject, window, amount=amount, settled=settled) | {"share": share},
        about=limit.identity,
        subject=subject,
        amount=amount,
        ends_at_ms=window.ends_at_ms,
    )


def spent_alert(limit: Limit, subject: str, window: Window, *, amount: int, settled: int) -> Alert | None:
    """That a limit is spent: its 100 %; None where nobody asked to be told."""
    if WHOLE not in limit.alert_at:
        return None
    return threshold_alert(limit, subject, window, share=WHOLE, amount=amount, settled=settled)


@dataclass(frozen=True, slots=True)
class Course:
    """How a balance came to where it is: what was settled in the window so far, and in the last day by the same
    subject, whatever window that fell into."""

    amount: int
    settled: int
    last_day: int


def spent_at_ms(course: Course, window: Window, now_ms: int) -> int | None:
    """When the amount is spent if it goes on like this; None where that can't be told, or not before the window turns.

    The rate of a longer window is the mean of that of the last day and, from its second day on, that of the window so
    far; a window of a day or less goes by itself, from its second quarter on.
    """
    left, ends_at_ms = course.amount - course.settled, window.ends_at_ms
    if ends_at_ms is None or left <= 0 or course.settled <= 0 or not window.holds(now_ms):
        return None
    length_ms, elapsed_ms = ends_at_ms - window.starts_at_ms, now_ms - window.starts_at_ms
    # A rate is a fraction: so many units in so many milliseconds.
    if length_ms <= DAY_MS:
        if elapsed_ms * _YOUNG < length_ms:
            return None
        units, ms = course.settled, elapsed_ms
    elif elapsed_ms < DAY_MS:
        units, ms = course.last_day, DAY_MS
    else:
        units, ms = course.settled * DAY_MS + course.last_day * elapsed_ms, 2 * elapsed_ms * DAY_MS
    if units <= 0:
        return None
    at_ms = now_ms + -(-left * ms // units)
    return at_ms if at_ms < ends_at_ms else None


def forecast_alert(limit: Limit, subject: str, window: Window, course: Course, now_ms: int) -> Alert | None:
    """That a limit will be spent before its window turns, once for each window and amount; None where it won't, where
    its window is over within a day of its start, or where nobody asked to be told of it."""
    if not limit.alert_at or not limit.unit.is_consumable or (window.ends_at_ms or 0) - window.starts_at_ms < DAY_MS:
        return None
    at_ms = spent_at_ms(course, window, now_ms)
    if at_ms is None:
        return None
    return Alert(
        kind=AlertKind.FORECAST,
        alert_id=alert_id(AlertKind.FORECAST, limit.identity, subject, window.number, course.amount),
        severity=Severity.WARNING,
        facts=_facts(limit, subject, window, amount=course.amount, settled=course.settled) | {"spent_at_ms": at_ms},
        about=limit.identity,
        subject=subject,
        amount=course.amount,
        ends_at_ms=window.ends_at_ms,
    )


def _amount_at(share: int, amount: int) -> int:
    return -(-share * amount // WHOLE)


def _facts(limit: Limit, subject: str, window: Window, *, amount: int, settled: int) -> dict[str, str | int | None]:
    pairs = zip(limit.each, subject_values(subject), strict=True)
    return {
        "limit": limit.name,
        "unit": limit.unit.value,
        "per": "lifetime" if limit.unit is Unit.CONCURRENT else limit.per,
        "subject": ", ".join(f"{name}={value or '(none)'}" for name, value in pairs),
        "amount": amount,
        "settled": settled,
        "starts_at_ms": window.starts_at_ms,
        "ends_at_ms": window.ends_at_ms,
        "is_shadow": int(not limit.is_enforced),
    }
