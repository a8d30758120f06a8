"""HTTP/1.1 for a hostile network: uvicorn's protocol with bounds, deadlines and a disconnect that is always seen.

What a client can do wrong is answered here, before the app hears of it, as an OpenAI-shaped JSON error; then the
connection ends. Failure policy: closed. A request that is malformed, ambiguous, too large or too slow is refused and
nothing that follows it on the same connection is read as a request.

Three rules go beyond uvicorn:

- One call at a time. Bytes that arrive while a call runs are dropped and the connection closes after its answer, so
  reading never pauses and the client's leaving is seen at once. Pipelined requests are therefore not served.
- A client that half-closes counts as gone. Nothing tells it apart from one that left, and its call costs money.
- An answer given before the request was read to its end is followed by a short linger. Closing at once would reset the
  connection and destroy the answer on its way.

An app ends an answer of known length with its last byte: if `more_body` stays true after it, the client may send its
next request into a call that still runs.
"""

import asyncio
import logging
import math
import urllib.parse
from dataclasses import dataclass
from enum import Enum
from typing import cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from spendfuse.server.cycle import CALL, HardenedCycle, Refusal

logger = logging.getLogger("spendfuse.server")

# Two of any of these and it is anyone's guess which one counts.
SINGLE_HEADERS = frozenset({b"authorization", b"x-api-key", b"host", b"content-type"})
_CHECKED_HEADERS = SINGLE_HEADERS | {b"content-length", b"expect"}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one connection may take, and how long the server waits for anything.

    A body has `body_timeout_s` plus the time it needs at `body_bytes_per_s_min`, so that a large upload may take
    longer and a trickle may not. `stalled_write_s` ends a connection whose client stopped reading. A stop waits
    `drain_s` for calls in flight, then cancels them; they have `close_s` to end, and so has the app.
    """

    head_bytes_max: int = 65_536
    headers_max: int = 100
    body_bytes_max: int = 32 * 1024 * 1024
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    body_bytes_per_s_min: int = 16_384
    # Longer than clients and load balancers keep theirs, so that the client is the one that closes.
    keep_alive_s: float = 75.0
    stalled_write_s: float = 300.0
    linger_s: float = 1.0
    # Both together fit the 30 s that process managers commonly grant.
    drain_s: float = 25.0
    close_s: float = 4.0


class Phase(Enum):
    """Where a connection stands; it decides what arriving bytes and a passed deadline mean."""

    HEAD = "reads a head, or waits for the first"
    BODY = "the app runs, the body is incomplete"
    CALL = "the request is complete, the answer is not"
    IDLE = "kept alive between two requests"
    LINGER = "answered; what still arrives is dropped"
    CLOSING = "closed once the last bytes are written"


class HardenedProtocol(HttpToolsProtocol):
    """One client connection. Makes no timer per request: a deadline that moved is noticed when the old one passes."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        limits: ServerLimits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self._limits = limits
        self._headers_max = limits.headers_max
        self._app = cast("ASGI3Application", config.app)
        self._parser = self.parser
        self._phase = Phase.HEAD
        self._call: HardenedCycle | None = None
        self._singles_seen: set[bytes] = set()
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # What the transport reports

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._enter(Phase.HEAD, self._limits.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._call is not None:
            self._call.left()
        del self._parser  # It holds this protocol's methods.
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall_timer = None

    def eof_received(self) -> None:
        # `close` would wait for unsent bytes, and a client that left never takes them.
        if self._phase is Phase.BODY or self._phase is Phase.CALL:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._limits.stalled_write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def data_received(self, data: bytes | memoryview) -> None:
        phase = self._phase
        if phase is Phase.CALL:
            self._end_with_this_call()
            return
        if phase is Phase.LINGER or phase is Phase.CLOSING:
            return
        try:
            if phase is Phase.BODY:
                self._feed_body(data)
            else:
                self._feed_head(data)
        except httptools.HttpParserError as exc:
            self._on_parser_error(exc)

    def _feed_head(self, data: bytes | memoryview) -> None:
        room = self._limits.head_bytes_max - self._head_bytes
        if len(data) > room:
            view = memoryview(data)
            self._feed(view[:room])
            if self._phase is Phase.HEAD or self._phase is Phase.IDLE:
                self._refuse(_head_too_large(self._limits))
            else:
                self._start_body_deadline()
                self.data_received(view[room:])
            return
        self._head_bytes += len(data)
        self._feed(data)
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEAD, self._limits.head_timeout_s)
        self._start_body_deadline()

    def _start_body_deadline(self) -> None:
        if self._phase is Phase.BODY:
            self._enter(Phase.BODY, self._limits.body_timeout_s)

    def _feed_body(self, data: bytes | memoryview) -> None:
        body_bytes_before = self._body_bytes
        self._feed(data)
        received = self._body_bytes - body_bytes_before
        if received:
            self._framing_bytes = 0
            self._deadline += received / self._limits.body_bytes_per_s_min
        elif self._phase is Phase.BODY:
            # Trailers and chunk extensions: the parser holds a field until it ends, so it must end.
            self._framing_bytes += len(data)
            if self._framing_bytes > self._limits.head_bytes_max:
                self._refuse(_head_too_large(self._limits))

    def _feed(self, data: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._end_with_this_call()
            unread_from: int = offer.args[0]
            self._read_on_without_upgrade(data[unread_from:])

    def _read_on_without_upgrade(self, unread: bytes | memoryview) -> None:
        """Ignore an offered upgrade. Java's HTTP client makes one in its first request, body and all.

        The parser stops at the offer and leaves the body; a second one that never saw the offer reads it.
        """
        framing = [
            b"%s: %s\r\n" % (name, value)
            for name, value in self.scope["headers"]
            if name in (b"content-length", b"transfer-encoding")
        ]
        self._parser = self.parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"".join((b"POST / HTTP/1.1\r\n", *framing, b"\r\n")))
        if unread:
            self._parser.feed_data(unread)

    # What the parser reports

    def on_message_begin(self) -> None:
        if self._phase is Phase.BODY:
            return  # The stand-in head of `_read_on_without_upgrade`.
        if self._phase is Phase.CALL:
            raise Refusal(400, "invalid_http", "Pipelined requests are not served.")
        self._singles_seen.clear()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self.headers
        if len(headers) >= self._headers_max:
            raise Refusal(431, "headers_too_large", f"More than {self._headers_max} headers.")
        if name in _CHECKED_HEADERS:
            self._check_header(name, value)
        headers.append((name, value))

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name in SINGLE_HEADERS:
            if name in self._singles_seen:
                raise Refusal(400, "duplicate_header", f'The header "{name.decode()}" is there twice; send it once.')
            self._singles_seen.add(name)
        if name == b"content-length" and int(value) > self._limits.body_bytes_max:
            raise _body_too_large(self._limits)
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        if self._phase is Phase.BODY:
            return
        http_version = self._parser.get_http_version()
        scope = self.scope
        scope["http_version"] = http_version
        scope["method"] = self._parser.get_method().decode("ascii")
        try:
            url = httptools.parse_url(self.url)
            raw_path = url.path or b"/"
            path = raw_path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            raise Refusal(400, "invalid_http", "The request target is not a valid URL path.") from None
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = url.query or b""
        # What comes now is a trailer, and must not join the headers that the app sees.
        self.headers = []
        self._phase = Phase.BODY
        self._body_bytes = self._framing_bytes = 0
        self._start_call(keep_alive=http_version != "1.0" and self._parser.should_keep_alive())

    def _start_call(self, *, keep_alive: bool) -> None:
        call = HardenedCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        call.refuse = self._refuse
        cast("dict[str, object]", self.scope)[CALL] = call
        self._call = self.cycle = call
        self._start_asgi_task(call, self._app)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes_max:
            raise _body_too_large(self._limits)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        super().on_message_complete()
        self._phase = Phase.CALL
        self._deadline = math.inf

    def _on_parser_error(self, error: httptools.HttpParserError) -> None:
        if self._phase is Phase.CALL:
            # The request itself was complete; what came behind it in the same packet is dropped.
            self._end_with_this_call()
            return
        cause = error.__context__
        if isinstance(cause, Refusal):
            self._refuse(cause)
        elif cause is None:
            self._refuse(Refusal(400, "invalid_http", f"The request is not valid HTTP: {error}."))
        else:
            raise error  # A defect of ours in a callback: the event loop logs it and ends the connection.

    # How a call and a connection end

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        call = self._call
        assert call is not None
        if self.transport.is_closing():
            self._enter(Phase.CLOSING, self._limits.stalled_write_s)
        elif call.last or call.more_body:
            self._linger()
        else:
            self._head_bytes = 0
            self.flow.resume_reading()
            self._enter(Phase.IDLE, self._limits.keep_alive_s)

    def _end_with_this_call(self) -> None:
        if self._call is not None:
            self._call.last = True

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in the app's place and end the connection; cut it if an answer is already under way."""
        logger.debug("request_refused status=%d code=%s", refusal.status, refusal.code)
        if self.transport.is_closing():
            return
        call = self._call
        if call is not None and not call.response_complete:
            call.disconnected = True
            call.message_event.set()
            call.left()
            if call.response_started:
                self.transport.abort()
                return
        self.transport.write(refusal.answer())
        self._linger()

    def _linger(self) -> None:
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._enter(Phase.LINGER, self._limits.linger_s)

    def _enter(self, phase: Phase, timeout_s: float) -> None:
        self._phase = phase
        self._deadline = deadline = self.loop.time() + timeout_s
        timer = self._timer
        if timer is not None and timer.when() <= deadline:
            return
        if timer is not None:
            timer.cancel()
        self._timer = self.loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._deadline == math.inf:
            return
        if self._phase is Phase.BODY and self.flow.read_paused:
            # The app is the slow one, not the client.
            self._enter(Phase.BODY, self._limits.body_timeout_s)
        elif self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._on_timer)
        else:
            self._on_deadline()

    def _on_deadline(self) -> None:
        if self._phase is Phase.HEAD:
            self._refuse(Refusal(408, "request_timeout", "The request's headers did not arrive in time."))
        elif self._phase is Phase.BODY:
            self._refuse(Refusal(408, "request_timeout", "The request's body did not arrive in time."))
        elif self._phase is Phase.CLOSING:
            self.transport.abort()
        else:
            self.transport.close()
            self._enter(Phase.CLOSING, self._limits.stalled_write_s)


def _head_too_large(limits: ServerLimits) -> Refusal:
    return Refusal(431, "headers_too_large", f"The headers take more than {limits.head_bytes_max} bytes.")


def _body_too_large(limits: ServerLimits) -> Refusal:
    return Refusal(413, "body_too_large", f"The body takes more than {limits.body_bytes_max} bytes.")
