"""What parent and worker say to each other over their socket pair: frames of a length, a word and a text.

The end of file tells either side that the other is gone, whatever killed it.
"""

import socket
import struct
from dataclasses import dataclass
from enum import Enum

_HEAD = struct.Struct("!IB")
_READ_BYTES = 262_144


class Word(Enum):
    """What a frame means."""

    # From the worker
    ACCEPTS = 1
    START_FAILED = 2
    """With its reason."""
    FOLLOWS = 3
    """It has taken the document it was given."""
    CANNOT_FOLLOW = 4
    """With its reason."""
    # From the parent
    FOLLOW = 5
    """With a document to take in place of the one it serves."""
    STOP = 6
    CUT = 7


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing said."""

    word: Word
    text: str


class Channel:
    """One side's end of the socket pair; takes over the socket.

    On a socket that does not block, what the other side has no room for waits here for `flush`.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unsent = b""
        self._unread = bytearray()

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, word: Word, text: str = "") -> None:
        """Say one thing, after what waits already. Never fails: a side that is gone has told so by its end of file."""
        body = text.encode(errors="surrogatepass")
        self._unsent += _HEAD.pack(len(body), word.value) + body
        self.flush()

    def flush(self) -> None:
        """Send of what waits as much as the other side has room for."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._end.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = b""

    def receive(self) -> list[Frame] | None:
        """What has come in whole since the last time, in order; None at the end of file. Waits for a first byte."""
        try:
            piece = self._end.recv(_READ_BYTES)
        except ConnectionError:
            piece = b""
        if not piece:
            return None
        self._unread += piece
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._unread) < _HEAD.size:
            return None
        size, word = _HEAD.unpack_from(self._unread)
        end = _HEAD.size + size
        if len(self._unread) < end:
            return None
        text = self._unread[_HEAD.size : end].decode(errors="surrogatepass")
        del self._unread[:end]
        return Frame(Word(word), text)
