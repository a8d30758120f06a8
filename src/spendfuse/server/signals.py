"""Signals for a process without an event loop: a socket that wakes a selector, and what has come since."""

import contextlib
import signal
import socket
from collections.abc import Generator, Iterable
from types import FrameType


class CaughtSignals:
    """Registered with a selector, it is readable when a signal has come."""

    def __init__(self, waking: socket.socket) -> None:
        self._waking = waking
        self._caught: list[int] = []

    def fileno(self) -> int:
        return self._waking.fileno()

    def take(self) -> list[int]:
        """The numbers of the signals since the last time, in order. Waits for a first one."""
        self._waking.recv(4_096)
        caught, self._caught = self._caught, []
        return caught

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. What is noted counts, not the bytes that wake: those get lost when thousands come at once."""
        del frame
        self._caught.append(number)


@contextlib.contextmanager
def caught_signals(numbers: Iterable[int]) -> Generator[CaughtSignals]:
    """Catch these signals in the main thread; the former handlers are put back at the end."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    caught = CaughtSignals(reading)
    former_fd = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    former = {number: signal.signal(number, caught.note) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former_fd)
        reading.close()
        writing.close()
