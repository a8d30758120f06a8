"""Refusals in OpenAI's words: its `error` object, the arithmetic beside it, and the headers that steer its SDKs."""

from datetime import UTC, datetime

from spendfuse.core.decisions import Reason
from spendfuse.core.limits import Unit
from spendfuse.core.money import format_usd
from spendfuse.core.refusals import Deny
from spendfuse.core.windows import MS_PER_S
from spendfuse.wire.dialect import Answer
from spendfuse.wire.json_body import Json, JsonObject, write

JSON_TYPE: tuple[str, str] = ("content-type", "application/json")
_TYPES = {401: "authentication_error", 402: "insufficient_quota", 429: "rate_limit_error"}


def refusal(deny: Deny) -> Answer:
    """A refusal as an answer. `error.spendfuse.limits` has one object for each limit that refused."""
    error: JsonObject = {
        "message": deny.message,
        "type": _type(deny.code.status),
        "param": deny.param,
        "code": deny.code.text,
    }
    if deny.reasons:
        error["spendfuse"] = {"limits": [_arithmetic(reason) for reason in deny.reasons]}
    headers = [JSON_TYPE]
    if deny.retry_after_s is not None:
        headers.append(("retry-after", str(deny.retry_after_s)))
    if deny.code.may_retry is not None:
        headers.append(("x-should-retry", "true" if deny.code.may_retry else "false"))
    return Answer(deny.code.status, tuple(headers), write({"error": error}))


def _type(status: int) -> str:
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


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
