"""The little of ASGI that the simulator needs: whole requests in, JSON out, and news of a client that left."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

# ASGI's own messages are untyped mappings; nothing past this module sees them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

EVENT_STREAM: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

BODY_BYTES_MAX = 64 * 1024 * 1024


class ClientLeftError(Exception):
    """The client closed its connection before its request was complete."""


class BodyTooLargeError(Exception):
    """The request's body is above `BODY_BYTES_MAX`."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


async def read_request(scope: Scope, receive: Receive) -> HttpRequest:
    """The request with its whole body.

    Raises:
        ClientLeftError: it will never be complete.
        BodyTooLargeError: it is larger than a provider would read.
    """
    return HttpRequest(
        method=scope["method"],
        path=scope["path"],
        query=dict(parse_qsl(scope["query_string"].decode("latin-1"))),
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        body=await read_body(receive),
    )


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request; raises as `read_request` does."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise BodyTooLargeError
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def run_while_connected(receive: Receive, answering: Coroutine[Any, Any, None]) -> bool:
    """Run `answering` to its end, or cancel it as soon as the client has left. Returns whether it ended by itself."""
    answer = asyncio.ensure_future(answering)
    watch = asyncio.ensure_future(_client_left(receive))
    try:
        await asyncio.wait((answer, watch), return_when=asyncio.FIRST_COMPLETED)
        ended = answer.done()
    finally:
        answer.cancel()
        watch.cancel()
        await asyncio.gather(answer, watch, return_exceptions=True)
    if ended:
        answer.result()
    return ended


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_body(send: Send, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def send_json(send: Send, status: int, value: object, *, headers: Headers | None = None) -> None:
    body = orjson.dumps(value)
    await send_start(send, status, [*json_headers(len(body)), *(headers or [])])
    await send_body(send, body)


def json_headers(body_bytes: int) -> Headers:
    return [(b"content-type", b"application/json"), (b"content-length", str(body_bytes).encode())]
