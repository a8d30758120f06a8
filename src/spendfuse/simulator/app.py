"""The simulator as an ASGI app: the provider's two APIs under `/v1`, its controls under `/simulator`."""

import secrets
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
from spendfuse.simulator.claude_models import claude_model
from spendfuse.simulator.embedding import serve_embeddings
from spendfuse.simulator.errors import InjectedError, ProviderError
from spendfuse.simulator.messages import serve_count_tokens, serve_messages
from spendfuse.simulator.messages_cache import PromptCache
from spendfuse.simulator.messages_errors import error_object, request_id_header
from spendfuse.simulator.messages_rendering import claude_model_list, claude_model_object
from spendfuse.simulator.models import MODELS
from spendfuse.simulator.pace import now_of
from spendfuse.simulator.rendering import model_list, model_object
from spendfuse.simulator.serving import Arrival

LAST_REQUEST_BYTES_MAX = 1024 * 1024
IDLE_WAIT_S_MAX = 60.0

_SERVED: Mapping[str, Callable[[Arrival, Receive, Send], Awaitable[None]]] = {
    "/v1/chat/completions": serve_chat,
    "/v1/embeddings": serve_embeddings,
    "/v1/messages": serve_messages,
}
_SERVED_FREE: Mapping[str, Callable[[Arrival, Receive, Send], Awaitable[None]]] = {
    "/v1/messages/count_tokens": serve_count_tokens,
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
        request_id = f"req_{secrets.token_hex(12)}"
        try:
            http = await read_request(scope, receive)
        except ClientLeftError:
            return
        except BodyTooLargeError:
            refused = ProviderError(413, "The request is too large.")
            await _send_error(send, refused, request_id if _is_messages(scope["path"]) else None)
            return
        bill = self._bill
        try:
            await self._route(http, request_id, receive, send)
        except ProviderError as error:
            if not isinstance(error, InjectedError) and http.path in _SERVED:
                bill.refuse(http.path, now_of(self._clock), status=error.status, headers=tuple(http.headers))
            await _send_error(send, error, request_id if _for_claude(http) else None)

    async def _route(self, http: HttpRequest, request_id: str, receive: Receive, send: Send) -> None:
        if http.path.startswith("/simulator/"):
            await send_json(send, 200, await self._control(http))
            return
        self._last_request = _seen(http)
        _check_key(http)
        serve = _SERVED.get(http.path) or _SERVED_FREE.get(http.path)
        if serve is not None and http.method == "POST":
            await serve(self._arrive(http, request_id), receive, send)
        elif http.method == "GET" and _is_models(http.path):
            headers = request_id_header(request_id) if _for_claude(http) else None
            await send_json(send, 200, _models(http), headers=headers)
        else:
            raise _unknown_url(http)

    def _arrive(self, http: HttpRequest, request_id: str) -> Arrival:
        self._arrivals += 1
        return Arrival(
            http=http,
            behaviour=self._behaviour,
            bill=self._bill,
            number=self._arrivals,
            clock=self._clock,
            received=now_of(self._clock),
            cache=self._cache,
            request_id=request_id,
        )

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
        self._cache = PromptCache()
        self._last_request: LastRequest | None = None
        self._behave(self._initial)


def _seen(http: HttpRequest) -> LastRequest:
    body = http.body[:LAST_REQUEST_BYTES_MAX].decode("utf-8", "replace")
    return LastRequest(http.method, http.path, tuple(http.headers), body, len(http.body) > LAST_REQUEST_BYTES_MAX)


def _is_models(path: str) -> bool:
    return path == "/v1/models" or path.startswith("/v1/models/")


def _is_messages(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def _for_claude(http: HttpRequest) -> bool:
    """Whether the request is one of the Messages API: the list of models is in both, told apart by a header."""
    return _is_messages(http.path) or (_is_models(http.path) and "anthropic-version" in http.headers)


async def _send_error(send: Send, error: ProviderError, request_id: str | None) -> None:
    """The error in OpenAI's shape, or with a request id in the other vendor's."""
    if request_id is None:
        await send_json(send, error.status, error.body, headers=error.headers)
        return
    headers = [*error.headers, *request_id_header(request_id)]
    await send_json(send, error.status, error_object(error, request_id), headers=headers)


def _models(http: HttpRequest) -> object:
    """The list of models, or one of them."""
    name = http.path.removeprefix("/v1/models").removeprefix("/")
    if _for_claude(http):
        model = claude_model(name)
        if name and model is None:
            raise ProviderError(404, f"model: {name}")
        return claude_model_list() if model is None else claude_model_object(model)
    if name and name not in MODELS:
        raise _unknown_url(http)
    return model_object(name) if name else model_list()


def _check_key(http: HttpRequest) -> None:
    if _for_claude(http) and http.headers.get("x-api-key", "").strip():
        return
    scheme, _, key = http.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        if _for_claude(http):
            raise ProviderError(401, "x-api-key header is required")
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
