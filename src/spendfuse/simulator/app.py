"""The simulator as an ASGI app: the provider's API under `/v1`, its controls under `/simulator`."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from spendfuse.clock import Clock, SystemClock
from spendfuse.simulator.asgi import (
    BodyTooLargeError,
    ClientLeftError,
    HttpRequest,
    Receive,
    Scope,
    Send,
    read_request,
    send_json,
)
from spendfuse.simulator.behaviour import Behaviour, parse_behaviour
from spendfuse.simulator.bill import Bill
from spendfuse.simulator.chat import serve_chat
from spendfuse.simulator.embedding import serve_embeddings
from spendfuse.simulator.errors import InjectedError, ProviderError
from spendfuse.simulator.models import MODELS
from spendfuse.simulator.pace import now_of
from spendfuse.simulator.rendering import model_list, model_object
from spendfuse.simulator.serving import Arrival

LAST_REQUEST_BYTES_MAX = 1024 * 1024
IDLE_WAIT_S_MAX = 60.0

_SERVED: Mapping[str, Callable[[Arrival, Receive, Send], Awaitable[None]]] = {
    "/v1/chat/completions": serve_chat,
    "/v1/embeddings": serve_embeddings,
}


@dataclass(frozen=True, slots=True)
class LastRequest:
    """The newest request under `/v1`: the names of its headers, in order, and its body (cut at 1 MiB)."""

    method: str
    path: str
    headers: tuple[str, ...]
    body: str
    truncated: bool


class Simulator:
    """One behaviour and one bill at a time; calls in flight keep those that they came under."""

    def __init__(self, behaviour: Behaviour | None = None, clock: Clock | None = None) -> None:
        self._initial = behaviour or Behaviour()
        self._clock = clock or SystemClock()
        self._reset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            http = await read_request(scope, receive)
        except ClientLeftError:
            return
        except BodyTooLargeError:
            await send_json(send, 413, ProviderError(413, "The request is too large.").body)
            return
        bill = self._bill
        try:
            await self._route(http, receive, send)
        except ProviderError as error:
            if not isinstance(error, InjectedError) and http.path in _SERVED:
                bill.refuse(http.path, now_of(self._clock), status=error.status, headers=tuple(http.headers))
            await send_json(send, error.status, error.body, headers=error.headers)

    async def _route(self, http: HttpRequest, receive: Receive, send: Send) -> None:
        if http.path.startswith("/simulator/"):
            await send_json(send, 200, await self._control(http))
            return
        self._last_request = _seen(http)
        _check_key(http)
        serve = _SERVED.get(http.path)
        if serve is not None and http.method == "POST":
            await serve(self._arrive(http), receive, send)
        elif http.method == "GET" and http.path == "/v1/models":
            await send_json(send, 200, model_list())
        elif http.method == "GET" and http.path.removeprefix("/v1/models/") in MODELS:
            await send_json(send, 200, model_object(http.path.removeprefix("/v1/models/")))
        else:
            raise _unknown_url(http)

    def _arrive(self, http: HttpRequest) -> Arrival:
        self._arrivals += 1
        return Arrival(http, self._behaviour, self._bill, self._arrivals, self._clock, now_of(self._clock))

    async def _control(self, http: HttpRequest) -> object:
        match (http.method, http.path):
            case ("GET", "/simulator/bill"):
                return await self._report(http)
            case ("GET", "/simulator/behaviour"):
                return self._behaviour
            case ("POST", "/simulator/behaviour"):
                self._behave(_parsed_behaviour(http.body))
                return self._behaviour
            case ("POST", "/simulator/reset"):
                self._reset()
                return {}
            case ("GET", "/simulator/last_request"):
                return self._last_request
            case _:
                raise _unknown_url(http)

    async def _report(self, http: HttpRequest) -> object:
        """The bill; with `calls=1` each call, with `wait_idle_s` once no call runs or that time is over."""
        bill = self._bill
        wait_s = _seconds(http.query.get("wait_idle_s", "0"))
        if wait_s > 0:
            await bill.wait_until_idle(min(wait_s, IDLE_WAIT_S_MAX))
        return bill.report(now_of(self._clock), with_records=http.query.get("calls") == "1")

    def _behave(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._arrivals = 0

    def _reset(self) -> None:
        self._bill = Bill()
        self._last_request: LastRequest | None = None
        self._behave(self._initial)


def _seen(http: HttpRequest) -> LastRequest:
    body = http.body[:LAST_REQUEST_BYTES_MAX].decode("utf-8", "replace")
    return LastRequest(http.method, http.path, tuple(http.headers), body, len(http.body) > LAST_REQUEST_BYTES_MAX)


def _check_key(http: HttpRequest) -> None:
    scheme, _, key = http.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = "You didn't provide an API key. You need to provide it in an Authorization header using Bearer auth."
        raise ProviderError(401, message, code="invalid_api_key")


def _parsed_behaviour(body: bytes) -> Behaviour:
    try:
        return parse_behaviour(body)
    except ValueError as invalid:
        raise ProviderError(400, str(invalid), param="behaviour") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ProviderError(400, "wait_idle_s is a number of seconds.", param="wait_idle_s") from None


def _unknown_url(http: HttpRequest) -> ProviderError:
    return ProviderError(404, f"Unknown request URL: {http.method} {http.path}.", code="unknown_url")
