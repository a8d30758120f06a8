"""Server-sent events as bytes: where one ends, and what it carries. Nothing is decoded that is not asked for."""

import re

EVENT_BYTES_MAX = 8 * 1024 * 1024
"""An event above this is not held back: from there on the stream passes unread."""
DONE = b"[DONE]"
_BOM = b"\xef\xbb\xbf"
# Two line ends in a row. A CR is a line end of its own only where no LF follows.
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_END_BYTES_MAX = 4


class EventSplitter:
    """Cuts a byte stream, which arrives in any chunks, into whole events with their ends.

    Where the events end does not depend on the chunks, but for an LF that arrives apart from the CR before it: it comes
    as a piece of its own and belongs to the event before.
    """

    __slots__ = ("_after_cr", "_has_cr", "_held", "is_blind")

    def __init__(self) -> None:
        self._held = bytearray()
        self._has_cr = False
        self._after_cr = False
        self.is_blind = False
        """An event exceeded `EVENT_BYTES_MAX`: `release` what is held and split no more."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take bytes; return the events that they complete."""
        if not chunk:
            return []
        self._has_cr = self._has_cr or b"\r" in chunk
        if not self._held and not self._has_cr and 0 <= chunk.find(b"\n\n") == len(chunk) - 2 < EVENT_BYTES_MAX:
            return [chunk]
        search_from, begin = 0, 0
        data: bytes | bytearray = chunk
        if self._held:
            search_from = max(0, len(self._held) - _END_BYTES_MAX + 1)
            self._held += chunk
            data = self._held
        events: list[bytes] = []
        if self._after_cr:
            self._after_cr = False
            if chunk[0] == 0x0A:
                events.append(b"\n")
                begin = search_from = 1
        while (end := self._next_end(data, search_from)) >= 0 and end - begin <= EVENT_BYTES_MAX:
            events.append(bytes(data[begin:end]))
            begin = search_from = end
        self._hold(data, begin)
        return events

    def release(self) -> bytes:
        """Give back what is held: the begun event, which never ended."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _next_end(self, data: bytes | bytearray, search_from: int) -> int:
        """The index behind the first end of an event, or -1."""
        if self._has_cr:
            match = _END.search(data, search_from)
            return match.end() if match else -1
        return end + 2 if (end := data.find(b"\n\n", search_from)) >= 0 else -1

    def _hold(self, data: bytes | bytearray, begin: int) -> None:
        if begin == len(data):
            self._after_cr = self._has_cr and begin > 0 and data[-1] == 0x0D
            self._held.clear()
        elif data is self._held:
            del self._held[:begin]
        else:
            self._held += data[begin:]
        self.is_blind = len(self._held) > EVENT_BYTES_MAX


def payload_of(event: bytes) -> bytes:
    """The data of an event, empty when it has none (a comment, a ping)."""
    if event.startswith(b"data:"):
        data = event[5:].strip()
        if b"\n" not in data and b"\r" not in data:
            return data
    lines = event.removeprefix(_BOM).splitlines()
    return b"\n".join([line[5:].strip() for line in lines if line.startswith(b"data:")])


def event_of(payload: bytes) -> bytes:
    """An event that carries the payload."""
    return b"data: " + payload + b"\n\n"
