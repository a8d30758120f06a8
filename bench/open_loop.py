"""An open-loop load: requests leave on a schedule, whether or not those before were answered.

A latency counts from when its request was due, so that a server that stalls is charged for all that had to wait, and
so is a generator that is late (`lateness_s`). One thread on plain sockets: cheaper and more punctual than an event
loop, whose timers have a resolution of a millisecond.
"""

import ctypes
import gc
import itertools
import random
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.load import is_whole
from bench.table import quantile

CONNECTIONS = 32
"""Opened beforehand; each waits its turn, so that all workers have some. More are opened when all are busy."""
CONNECTIONS_MAX = 900
TIMEOUT_S = 10.0
_PR_SET_TIMERSLACK = 29


@dataclass
class Latencies:
    """Of every request, in seconds: from due to answered, and from due to sent."""

    answered_s: list[float] = field(default_factory=list[float])
    lateness_s: list[float] = field(default_factory=list[float])
    statuses: set[bytes] = field(default_factory=set[bytes])

    def us(self, share: float) -> float:
        """A quantile of the latencies in microseconds."""
        return quantile(sorted(self.answered_s), share) * 1e6

    def lateness_us(self, share: float) -> float:
        """A quantile of the generator's own lateness in microseconds."""
        return quantile(sorted(self.lateness_s), share) * 1e6


def schedule(rate: float, requests: int, *, even: bool) -> Iterator[float]:
    """When requests are due, in seconds from the start: evenly, or at random (the same each time) as from many clients
    that do not know each other.
    """
    if even:
        return (number / rate for number in range(requests))
    seeded = random.Random(1)
    return itertools.accumulate(seeded.expovariate(rate) for _ in range(requests))


class OpenLoop:
    """The connections to one server; `run` may be called again and again."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self._idle = deque(self._open() for _ in range(CONNECTIONS))
        self._busy: dict[socket.socket, tuple[float, bytes]] = {}

    def run(self, rate: float, requests: int, *, even: bool = True) -> Latencies:
        """Send so many requests at so many a second, and wait for their answers."""
        be_punctual()
        latencies = Latencies()
        dues = schedule(rate, requests, even=even)
        started_s = time.perf_counter()
        due_s = started_s + next(dues)
        ends_s = float("inf")
        gc.disable()
        while self._busy or ends_s == float("inf"):
            now_s = time.perf_counter()
            while due_s <= now_s:
                self._send(due_s, latencies)
                offset_s = next(dues, None)
                if offset_s is None:
                    ends_s, due_s = now_s + TIMEOUT_S, float("inf")
                    break
                due_s = started_s + offset_s
            assert now_s < ends_s, f"{len(self._busy)} requests were not answered within {TIMEOUT_S} s"
            wait_s = min(due_s, ends_s) - time.perf_counter()
            for ready in select.select(self._busy, (), (), max(0.0, wait_s))[0]:
                self._receive(ready, latencies)
        gc.enable()
        return latencies

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _open(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _send(self, due_s: float, latencies: Latencies) -> None:
        if not self._idle:
            assert len(self._busy) < CONNECTIONS_MAX, "the server does not keep up"
            self._idle.append(self._open())
        connection = self._idle.popleft()
        connection.sendall(self._request)
        self._busy[connection] = (due_s, b"")
        latencies.lateness_s.append(time.perf_counter() - due_s)

    def _receive(self, connection: socket.socket, latencies: Latencies) -> None:
        due_s, begun = self._busy[connection]
        data = connection.recv(65_536)
        assert data, "the server closed a connection"
        answer = begun + data
        if not is_whole(answer):
            self._busy[connection] = (due_s, answer)
            return
        latencies.answered_s.append(time.perf_counter() - due_s)
        latencies.statuses.add(answer[9:12])
        del self._busy[connection]
        self._idle.append(connection)


def be_punctual() -> None:
    """Have the kernel wake this thread when it asked to be woken, not up to 50 us later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1_000)
