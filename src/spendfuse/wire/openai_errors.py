"""Refusals in OpenAI's words: its `error` object, with the arithmetic beside it."""

from spendfuse.core.refusals import Deny
from spendfuse.wire.dialect import Answer
from spendfuse.wire.json_body import JsonObject, write
from spendfuse.wire.refusals import arithmetic, refusal_headers

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
        error["spendfuse"] = arithmetic(deny)
    return Answer(deny.code.status, refusal_headers(deny), write({"error": error}))


def _type(status: int) -> str:
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
