"""One request and its answer, under whatever the app does: it crashes, is cancelled, returns without an answer.

Failure policy: the client gets a JSON error if no answer was begun, else the connection is cut, so that half an answer
never passes for a whole one. A client that left is not an error.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from types import CoroutineType
from typing import Any

from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

logger = logging.getLogger("spendfuse.server")

Refuse = Callable[["Refusal"], None]

CALL = "spendfuse.call"
"""Under this name a scope holds its `HardenedCycle`."""


class Refusal(Exception):
    """What the client is told in the app's place. A parser callback raises it, which stops the parser."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def answer(self) -> bytes:
        """The whole HTTP answer; it announces the end of the connection."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": self.message, "type": kind, "code": self.code}}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        return STATUS_LINE[self.status] + head + body


class HardenedCycle(RequestResponseCycle):
    """One request and its answer. `last` says that the connection ends with it, by the protocol's linger.

    An app finds it in its scope as `scope[CALL]`, for two things that ASGI lacks: to be told at once that the client
    has left (`on_leave`), at less cost than a task that waits for it, and to `abort` an answer that has begun.
    """

    last: bool = False
    refuse: Refuse
    on_leave: Callable[[], object] | None = None

    def left(self) -> None:
        """The client has left, or can take no answer any more."""
        if self.on_leave is not None and not self.response_complete:
            self.on_leave()

    def abort(self) -> None:
        """Break the connection, so that the client can't take what it has for a whole answer."""
        self.on_leave = None
        self.disconnected = True
        self.transport.abort()

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Send a whole answer in one write: a system call less than by the two messages of ASGI."""
        if self.last or self.more_body or self.scope["method"] == "HEAD":
            encoded = [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers]
            encoded.append((b"content-length", b"%d" % len(body)))
            await self.send({"type": "http.response.start", "status": status, "headers": encoded})
            await self.send({"type": "http.response.body", "body": body, "more_body": False})
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        self.transport.write(STATUS_LINE[status] + _head(headers, len(body), keep_alive=self.keep_alive) + body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def send(self, message: ASGISendEvent) -> "CoroutineType[Any, Any, None]":
        if (self.more_body or self.last) and message["type"] == "http.response.start":
            return self._start_last_answer(message)
        return super().send(message)

    async def _start_last_answer(self, message: ASGISendEvent) -> None:
        self.last = True
        self.keep_alive = False  # Puts `connection: close` into the head …
        await super().send(message)
        self.keep_alive = True  # … and leaves the closing itself to the protocol.

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the app to its end; whatever it does, the client gets an answer or sees the connection cut."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._fail(Refusal(503, "shutting_down", "The server is shutting down. Send the call again."))
            raise
        except Exception:
            # A defect met by one call must not touch the others.
            logger.exception("call_crashed method=%s path=%s", self.scope["method"], self.scope["path"])
            self._fail(Refusal(500, "internal_error", "The server failed to answer this call."))
        else:
            if not self.response_complete and not self.disconnected:
                logger.error("call_left_unanswered method=%s path=%s", self.scope["method"], self.scope["path"])
                self._fail(Refusal(500, "internal_error", "The server failed to answer this call."))
        finally:
            self.on_response = _nothing
            self.refuse = _ignore
            self.on_leave = None
            # The scope holds the cycle, and the cycle the scope.
            self.scope.pop(CALL, None)

    def _fail(self, refusal: Refusal) -> None:
        if not self.response_complete and not self.disconnected:
            self.refuse(refusal)


def _head(headers: Iterable[tuple[str, str]], body_bytes: int, *, keep_alive: bool) -> bytes:
    """The header block of an answer.

    Raises:
        ValueError: a name or value would break out of its line.
    """
    lines = [f"{name}: {value}" for name, value in headers]
    lines.append(f"content-length: {body_bytes}")
    if not keep_alive:
        lines.append("connection: close")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header of an answer has a line end or NUL in it")
    # As the upstream client decoded them: a value keeps its bytes.
    return f"{text}\r\n\r\n".encode("utf-8", "surrogateescape")


def _nothing() -> None:
    """Stands for a callback that is done, so that a cycle does not keep its connection alive."""


def _ignore(_: Refusal) -> None:
    """The same for a callback that takes a refusal."""
