"""A kept connection: one call at a time writes its request, and reads its answer.

Failure policy: closed. A connection on which anything unforeseen happens is aborted, never reused. Its call is
`NeverSent` only while part of the request is in our own buffer; after that its fate is unknown.
"""

import asyncio
from typing import Protocol, cast

from spendfuse.upstream.answer_parser import AnswerBroken, AnswerParser
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamError, UpstreamRequest, UpstreamTimeout
from spendfuse.upstream.http_request import Origin
from spendfuse.upstream.http_response import HttpResponse

READ_BUFFER_BYTES = 65_536
"""Reading pauses above it until the call has taken what has come."""
_UPLOAD_SLICE_BYTES = 262_144
_NOTHING = memoryview(b"")


class Home(Protocol):
    """Where connections are between their calls."""

    def keep(self, connection: "Connection") -> None:
        """It is idle."""
        ...

    def forget(self, connection: "Connection") -> None:
        """It has been lost."""
        ...


class Connection(asyncio.Protocol):
    """Between `send` and the end of the answer it belongs to one call; then it goes home or dies."""

    __slots__ = (
        "_first_byte_timeout_s",
        "_heard_at_s",
        "_home",
        "_is_reading_paused",
        "_is_usable",
        "_is_writing_paused",
        "_loop",
        "_parser",
        "_read_timeout_s",
        "_response",
        "_timer",
        "_timer_at_s",
        "_total_at_s",
        "_transport",
        "_unsent",
        "idle_since_s",
        "origin",
    )

    def __init__(self, origin: Origin, home: Home) -> None:
        self.origin = origin
        self.idle_since_s = 0.0
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._parser = AnswerParser()
        self._transport: asyncio.Transport | None = None
        self._is_usable = True
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._unsent = _NOTHING
        """What of the body has not been given to the transport."""
        self._response: HttpResponse | None = None
        """None while idle, and once the call has let go."""
        self._total_at_s = 0.0
        self._first_byte_timeout_s = 0.0
        self._read_timeout_s = 0.0
        self._heard_at_s = 0.0
        """When it was last the upstream's turn: the end of the upload, a read, or reading resumed."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0

    @property
    def is_usable(self) -> bool:
        """Nobody has closed it, as far as can be told without asking the kernel."""
        return self._is_usable and self._transport is not None and not self._transport.is_closing()

    # What a call does.

    def send(self, request: UpstreamRequest, head: bytes, *, response: HttpResponse, total_at_s: float) -> None:
        """Write a request; its answer, or its failure, goes to the response."""
        transport = self._transport
        assert transport is not None
        assert self._response is None
        self._response = response
        self._total_at_s = total_at_s
        self._first_byte_timeout_s = request.first_byte_timeout_s
        self._read_timeout_s = request.read_timeout_s
        self._heard_at_s = self._loop.time()
        self._parser.expect(response)
        self._watch(self._heard_at_s)
        body = request.body
        if len(body) <= _UPLOAD_SLICE_BYTES:
            transport.write(head + body)
        else:
            self._unsent = memoryview(body)
            transport.write(head)
        if transport.is_closing():
            # The first write failed, so the kernel has taken nothing.
            self._fail(NeverSent("the request was not sent: the connection had been closed"))
        else:
            self._upload_on()

    def resume(self) -> None:
        """See `Source`."""
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._heard_at_s = self._loop.time()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close without flushing: a request that was given up is not sent to its end, nor is TLS shut down politely,
        either of which would let the provider go on generating."""
        self._is_usable = False
        self._response = None
        self._unsent = _NOTHING
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def cut(self, why: str) -> None:
        """Close at once, and let the call fail."""
        self._fail(self._loss(why))

    # What the event loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # So that writing is paused if and only if part of a request is in the transport's buffer.
        self._transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.abort()  # Whatever comes unasked must not be read as the answer to the next call.
            return
        self._heard_at_s = self._loop.time()
        try:
            is_complete = self._parser.feed(data)
        except AnswerBroken as exc:
            self._fail(FateUnknown(f"the upstream's answer is broken: {exc}"))
            return
        if is_complete:
            self._finish(response)
            return
        if response.size > READ_BUFFER_BYTES and not self._is_reading_paused:
            self._pause()
        response.wake()

    def eof_received(self) -> None:
        response = self._response
        if response is not None and self._parser.feed_eof():
            self._finish(response)
        else:
            self.cut("it was closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._home.forget(self)
        self.cut("it was closed" if exc is None else type(exc).__name__)

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._upload_on()
        self._heard_at_s = self._loop.time()

    # How a call goes on.

    @property
    def _is_uploading(self) -> bool:
        return self._is_writing_paused or len(self._unsent) > 0

    def _upload_on(self) -> None:
        transport = self._transport
        assert transport is not None
        while self._unsent and not self._is_writing_paused and not transport.is_closing():
            part, self._unsent = self._unsent[:_UPLOAD_SLICE_BYTES], self._unsent[_UPLOAD_SLICE_BYTES:]
            transport.write(part)

    def _pause(self) -> None:
        assert self._transport is not None
        self._is_reading_paused = True
        self._transport.pause_reading()

    def _finish(self, response: HttpResponse) -> None:
        # A connection that still carries the rest of a request is of no more use either.
        if self._parser.can_reuse and not self._is_uploading:
            self._response = None
            self._unsent = _NOTHING  # It still refers to the body.
            self._home.keep(self)
        else:
            self.abort()
        response.end()

    def _fail(self, failure: UpstreamError) -> None:
        response = self._response
        self.abort()
        if response is not None:
            response.fail(failure)

    def _loss(self, why: str) -> UpstreamError:
        if self._response is None or self._response.has_begun:
            return FateUnknown(f"the connection to the upstream failed before the end of its answer: {why}")
        if self._is_uploading:
            return NeverSent(f"the request was not sent: the connection broke during the upload: {why}")
        return FateUnknown(f"the connection to the upstream failed before it answered: {why}")

    # Time. One timer serves all calls of the connection: it is only moved to an earlier time, never to a later one;
    # when it fires too early it looks again later.

    def _watch(self, now_s: float) -> None:
        """Have `_check_time` called before the call can be out of time, whatever happens until then."""
        at_s = min(self._deadline_s(), now_s + min(self._first_byte_timeout_s, self._read_timeout_s))
        if self._timer is not None:
            if self._timer_at_s <= at_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._check_time)
        self._timer_at_s = at_s

    def _deadline_s(self) -> float:
        """When the call is out of time if nothing happens any more."""
        response = self._response
        assert response is not None
        if self._is_reading_paused:
            return self._total_at_s
        if response.has_begun:
            return min(self._total_at_s, self._heard_at_s + self._read_timeout_s)
        if self._is_uploading:
            return self._total_at_s
        return min(self._total_at_s, self._heard_at_s + self._first_byte_timeout_s)

    def _check_time(self) -> None:
        self._timer = None
        response = self._response
        if response is None:
            return
        now_s = self._loop.time()
        if now_s < self._deadline_s():
            self._watch(now_s)
            return
        when = "the end of its answer" if response.has_begun else "it answered"
        what = "used up the call's time" if now_s >= self._total_at_s else "fell silent"
        self._fail(UpstreamTimeout(f"the upstream {what} before {when}"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
