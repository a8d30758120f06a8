"""What a refused caller is told: one value for every way of being refused."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from spendfuse.core.breakers import Breaker, Phase, State
from spendfuse.core.decisions import Reason, Refused, Shortfall
from spendfuse.core.labels import subject_values
from spendfuse.core.windows import MS_PER_S

BUSY_RETRY_S = 1
UNAVAILABLE_RETRY_S = 2
BREAKER_RETRY_S = 60
"""For a breaker of which nobody can say when it closes."""


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
    BREAKER_OPEN = ("breaker_open", 503, False)
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
    breaker_name: str = ""
    """Of the breaker that is open, for `breaker_open`."""


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


def deny_open(breaker: Breaker, subject: str, state: State, now_ms: int) -> Deny:
    """The refusal of a breaker that is not closed: which, for whom, since when, why, and when it tries again."""
    pairs = zip(breaker.each, subject_values(subject), strict=True)
    whom = ", ".join(f"{name}={value or '(none)'}" for name, value in pairs)
    what = f'breaker "{breaker.name}"' + (f" ({whom})" if whom else "")
    since = _utc_text(state.since_ms, to_the_second=True)
    again_ms = retries_at_ms(breaker, state)
    if state.phase is Phase.FORCED_OPEN:
        said = f"{what} was opened by {state.who} at {since}: {state.why}. It stays open until somebody closes it."
    elif state.phase is Phase.HALF_OPEN or (again_ms is not None and again_ms <= now_ms):
        said = f"{what} is half-open, as of {since}: {state.why}. One call tries now whether it may close."
    else:
        said = f"{what} is open since {since}: {state.why}. {_when_open(breaker, again_ms)}"
    wait_ms = BREAKER_RETRY_S * MS_PER_S if again_ms is None else again_ms - now_ms
    retry_after_s = max(1, -(-wait_ms // MS_PER_S))
    return Deny(Code.BREAKER_OPEN, f"{said} Nothing was sent.", retry_after_s=retry_after_s, breaker_name=breaker.name)


def retries_at_ms(breaker: Breaker, state: State) -> int | None:
    """When a breaker lets calls through again, or tries to, at the earliest; None where nobody can say."""
    if state.phase is not Phase.OPEN:
        return None if state.phase is Phase.FORCED_OPEN else state.since_ms
    if breaker.is_judged:
        return state.since_ms + breaker.cooldown_ms
    return state.closes_at_ms if state.tries_at_ms is None else state.tries_at_ms


def _when_open(breaker: Breaker, again_ms: int | None) -> str:
    if again_ms is None:
        return "It closes when that is over, or by hand."
    at = _utc_text(again_ms, to_the_second=True)
    if breaker.probes:
        return f"It tries again at {at}."
    return f"It closes once that is over, at {at} at the earliest." if breaker.is_judged else f"It closes at {at}."


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


def _utc_text(ms: int, *, to_the_second: bool = False) -> str:
    at = datetime.fromtimestamp(ms / MS_PER_S, UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S UTC" if to_the_second else "%Y-%m-%d %H:%M UTC")


def _retry_after_s(refused: Refused, now_ms: int) -> int | None:
    match refused.shortfall:
        case Shortfall.BUSY:
            return BUSY_RETRY_S
        case Shortfall.RATE:
            waits_ms = [one.retry_at_ms - now_ms for one in refused.reasons if one.retry_at_ms is not None]
            return max(1, -(-max(waits_ms, default=0) // MS_PER_S))
        case Shortfall.SPENT | Shortfall.EXCEEDS:
            return None
