"""Errors in the provider's own shape."""

from spendfuse.simulator.asgi import Headers

_INJECTED = {
    429: ("Rate limit reached: please try again later.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
}
_CLIENT_ERROR = ("The request was refused.", "invalid_request_error", None)
_SERVER_ERROR = ("The server had an error while processing your request.", "server_error", None)


class ProviderError(Exception):
    """A refusal or a failure, to be answered with its status and OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers: Headers = []

    @property
    def body(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class InjectedError(ProviderError):
    """An error that a behaviour asked for, met by a call that is on the bill."""


def injected_error(status: int, retry_after: int | None) -> InjectedError:
    """The error with the provider's usual text for its status."""
    message, kind, code = _INJECTED.get(status, _SERVER_ERROR if status >= 500 else _CLIENT_ERROR)
    error = InjectedError(status, message, kind=kind, code=code)
    if retry_after is not None:
        error.headers = [(b"retry-after", str(retry_after).encode())]
    return error
