"""Meters a stream of Anthropic's events and gives it to the client as chat chunks.

Reading is all the native meter's: what is charged does not depend on who listens.

Failure policy: what cannot be read cannot be translated. The client gets an error event for it, so that nobody takes
the rest for the whole; `has_unread` says so to the gateway.
"""

from collections.abc import Callable

from spendfuse.core.calls import Call
from spendfuse.core.usage import Usage
from spendfuse.wire.anthropic_stream import MessagesStreamMeter
from spendfuse.wire.json_body import JsonObject
from spendfuse.wire.translate.chunks import ChatChunks

_UNREADABLE: JsonObject = {
    "type": "error",
    "error": {
        "type": "api_error",
        "message": "The provider sent an event that could not be read: the rest is missing.",
    },
}


class ChatOverMessagesMeter(MessagesStreamMeter):
    """A meter for one stream; see `StreamMeter`."""

    def __init__(self, call: Call, now_s: Callable[[], int]) -> None:
        super().__init__(call)
        self._chunks = ChatChunks(call.model, shows_usage=call.wants_usage_chunk, now_s=now_s)
        self._ready: list[bytes] = []
        self._has_ended = False

    def feed(self, chunk: bytes) -> bytes:
        """See `StreamMeter`."""
        super().feed(chunk)
        return self._take()

    def finish(self) -> bytes:
        """See `StreamMeter`. An event that lacks its end is read all the same, as clients do."""
        super().finish()
        return self._take()

    def cut(self, usage: Usage) -> bytes:
        """See `StreamMeter`. After the stream's own end there is nothing to add."""
        if self.is_complete:
            return b""
        super().cut(usage)
        self._has_ended = True
        return self._chunks.end(usage)

    def _read_event(self, event: JsonObject) -> None:
        super()._read_event(event)
        self._tell_unread()
        if self._has_ended:
            return
        if self.is_complete:
            self._has_ended = True
            self._ready.append(self._chunks.end(self.usage))
        else:
            self._ready.append(self._chunks.of(event))

    def _take(self) -> bytes:
        """What has been translated and not been given out."""
        self._tell_unread()
        ready = b"".join(self._ready)
        self._ready.clear()
        return ready

    def _tell_unread(self) -> None:
        if self.has_unread and not self._has_ended:
            self._has_ended = True
            self._ready.append(self._chunks.of(_UNREADABLE))
