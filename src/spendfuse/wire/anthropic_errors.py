"""Refusals in Anthropic's words: its `error` object, with the arithmetic beside it."""

from spendfuse.core.refusals import Deny
from spendfuse.wire.dialect import Answer
from spendfuse.wire.json_body import JsonObject, write
from spendfuse.wire.refusals import arithmetic, refusal_headers

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def refusal(deny: Deny) -> Answer:
    """A refusal as an answer. `error.spendfuse.limits` has one object for each limit that refused.

    The code stands twice: as `error.code`, and where the vendor's SDKs look for one.
    """
    error: JsonObject = {
        "type": error_type(deny.code.status),
        "message": deny.message,
        "code": deny.code.text,
        "param": deny.param,
        "details": {"error_code": deny.code.text},
    }
    if deny.reasons:
        error["spendfuse"] = arithmetic(deny)
    return Answer(deny.code.status, refusal_headers(deny), write({"type": "error", "error": error}))


def error_type(status: int) -> str:
    """The vendor's name for an error of this status."""
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
