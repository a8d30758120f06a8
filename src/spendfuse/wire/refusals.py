"""What every dialect's refusal shares: the arithmetic of the limits that refused, and the headers that steer SDKs."""

from datetime import UTC, datetime

from spendfuse.core.decisions import Reason
from spendfuse.core.limits import Unit
from spendfuse.core.money import format_usd
from spendfuse.core.refusals import Deny
from spendfuse.core.windows import MS_PER_S
from spendfuse.wire.json_body import Json, JsonObject

JSON_TYPE: tuple[str, str] = ("content-type", "application/json")


def refusal_headers(deny: Deny) -> tuple[tuple[str, str], ...]:
    """The headers of a refusal: both vendors' SDKs obey `retry-after` and `x-should-retry`."""
    headers = [JSON_TYPE]
    if deny.retry_after_s is not None:
        headers.append(("retry-after", str(deny.retry_after_s)))
    if deny.code.may_retry is not None:
        headers.append(("x-should-retry", "true" if deny.code.may_retry else "false"))
    return tuple(headers)


def arithmetic(deny: Deny) -> JsonObject:
    """`{"limits": […]}` with one object for each limit that refused; empty where none did."""
    return {"limits": [_arithmetic(reason) for reason in deny.reasons]} if deny.reasons else {}


def _arithmetic(reason: Reason) -> JsonObject:
    """One limit's refusal in numbers: dollars as decimal strings, tokens and calls as integers, times in UTC."""
    unit = reason.limit.unit
    return {
        "code": reason.shortfall.value,
        "limit": reason.limit.name,
        "subject": dict(reason.pairs),
        "unit": unit.value,
        "period": str(reason.limit.period),
        "amount": _amount(unit, reason.amount),
        "settled": _amount(unit, reason.settled),
        "reserved": _amount(unit, reason.reserved),
        "left": _amount(unit, reason.left),
        "need": _amount(unit, reason.need),
        "need_at_least": _amount(unit, reason.need_useful),
        "resets_at": _time(reason.resets_at_ms),
        "retry_at": _time(reason.retry_at_ms),
    }


def _amount(unit: Unit, amount: int) -> Json:
    return format_usd(amount) if unit is Unit.USD else amount


def _time(ms: int | None) -> str | None:
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / MS_PER_S, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
