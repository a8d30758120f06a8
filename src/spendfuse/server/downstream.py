"""The way back to a client over ASGI."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from spendfuse.server.cycle import HardenedCycle
from spendfuse.wire.dialect import Answer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiDownstream:
    """Answers one request. Awaiting `send` waits while the client does not read."""

    __slots__ = ("_call", "_send")

    def __init__(self, send: Send, call: HardenedCycle) -> None:
        self._send = send
        self._call = call

    async def answer(self, answer: Answer) -> None:
        """See `Downstream`."""
        await self._call.answer(answer.status, answer.headers, answer.body)

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        """See `Downstream`."""
        await self._send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})

    async def send(self, chunk: bytes) -> None:
        """See `Downstream`."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self) -> None:
        """See `Downstream`."""
        await self._send({"type": "http.response.body", "body": b""})

    async def abort(self) -> None:
        """See `Downstream`."""
        self._call.abort()


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers]
