"""Errors in the shape of the Messages API, where the status alone decides the type."""

from collections.abc import Mapping

import orjson

from spendfuse.simulator.asgi import Headers
from spendfuse.simulator.errors import InjectedError, ProviderError

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

# What an injected error says; any other status says that something went wrong inside.
_TEXTS: Mapping[int, str] = {
    400: "The request was refused.",
    401: "invalid x-api-key",
    402: "Your credit balance is too low to use the API.",
    403: "Your API key may not use this resource.",
    404: "Not found",
    413: "The request is too large.",
    429: "This request would exceed the rate limit of your organization.",
    504: "The request timed out.",
    529: "Overloaded",
}


def error_type(status: int) -> str:
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def error_object(error: ProviderError, request_id: str) -> dict[str, object]:
    message = error.message
    if isinstance(error, InjectedError):
        message = _TEXTS.get(error.status, "Internal server error")
    return _object(error.status, message, request_id)


def error_event(status: int, request_id: str) -> bytes:
    """The event that ends a stream whose status has gone out already."""
    body = orjson.dumps(_object(status, _TEXTS.get(status, "Internal server error"), request_id))
    return b"event: error\ndata: " + body + b"\n\n"


def request_id_header(request_id: str) -> Headers:
    return [(b"request-id", request_id.encode())]


def _object(status: int, message: str, request_id: str) -> dict[str, object]:
    error = {"type": error_type(status), "message": message}
    return {"type": "error", "error": error, "request_id": request_id}
