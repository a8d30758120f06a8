"""What a refused caller is told: one value for every way of being refused."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from spendfuse.core.decisions import Reason, Refused, Shortfall
from spendfuse.core.windows import MS_PER_S

BUSY_RETRY_S = 1
UNAVAILABLE_RETRY_S = 2


class Code(Enum):
    """A refusal's code on the wire, its HTTP status, and whether the same request may ever succeed soon.

    An SDK that obeys `x-should-retry` does not repeat what `may_retry` denies; None leaves it to the status.
    """

    BUDGET_EXCEEDED = ("budget_exceeded", 402, False)
    BUDGET_BUSY = ("budget_busy", 429, None)
    RATE_LIMIT_EXCEEDED = ("rate_limit_exceeded", 429, None)
    CALL_EXCEEDS_LIMIT = ("call_exceeds_limit", 400, False)
    MODEL_NOT_PRICED = ("model_not_priced", 400, False)
    MODEL_NOT_FOUND = ("model_not_found", 404, False)
    INVALID_API_KEY = ("invalid_api_key", 401, False)
    INVALID_REQUEST = ("invalid_request", 400, False)
    LABEL_REQUIRED = ("label_required", 400, False)
    REQUEST_TOO_LARGE = ("request_too_large", 413, False)
    UNSUPPORTED_ENCODING = ("unsupported_encoding", 415, False)
    NOT_FOUND = ("not_found", 404, False)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, False)
    LOOP_DETECTED = ("loop_detected", 508, False)
    STORE_UNAVAILABLE = ("store_unavailable", 503, None)
    PROVIDER_KEY_MISSING = ("provider_key_missing", 503, False)
    UPSTREAM_UNREACHABLE = ("upstream_unreachable", 502, None)
    UPSTREAM_FAILED = ("upstream_failed", 502, False)
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504, False)

    def __init__(self, text: str, status: int, may_retry: bool | None) -> None:
        self.text = text
        self.status = status
        self.may_retry = may_retry


@dataclass(frozen=True, slots=True)
class Deny:
    """A refusal. `message` says what, which limit, have, need and next step; `param` names the offending field."""

    code: Code
    message: str
    param: str | None = None
    retry_after_s: int | None = None
    reasons: tuple[Reason, ...] = ()


_CODE_OF = {
    Shortfall.EXCEEDS: Code.CALL_EXCEEDS_LIMIT,
    Shortfall.SPENT: Code.BUDGET_EXCEEDED,
    Shortfall.RATE: Code.RATE_LIMIT_EXCEEDED,
    Shortfall.BUSY: Code.BUDGET_BUSY,
}


def deny_refused(refused: Refused, now_ms: int) -> Deny:
    """The refusal of a ledger, for the caller: the strongest reason's code, every reason's arithmetic."""
    code = _CODE_OF[refused.shortfall]
    message = "; ".join(f"{reason.describe()}{_when(reason)}" for reason in refused.reasons)
    return Deny(code, f"{message}. {_NEXT_STEP[code]}", None, _retry_after_s(refused, now_ms), refused.reasons)


_NEXT_STEP = {
    Code.CALL_EXCEEDS_LIMIT: "The call is larger than the whole limit: send less input or lower its output cap.",
    Code.BUDGET_EXCEEDED: "Retrying does not help until the limit resets or is raised.",
    Code.RATE_LIMIT_EXCEEDED: "Retry later.",
    Code.BUDGET_BUSY: "Retry when calls in flight have ended, or lower the call's output cap.",
}


def _when(reason: Reason) -> str:
    if reason.resets_at_ms is None:
        return ""
    return f"; resets {_utc_text(reason.resets_at_ms)}"


def _utc_text(ms: int) -> str:
    return datetime.fromtimestamp(ms / MS_PER_S, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _retry_after_s(refused: Refused, now_ms: int) -> int | None:
    match refused.shortfall:
        case Shortfall.BUSY:
            return BUSY_RETRY_S
        case Shortfall.RATE:
            waits_ms = [one.retry_at_ms - now_ms for one in refused.reasons if one.retry_at_ms is not None]
            return max(1, -(-max(waits_ms, default=0) // MS_PER_S))
        case Shortfall.SPENT | Shortfall.EXCEEDS:
            return None
