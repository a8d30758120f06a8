"""A closed-loop load: so many connections, each sending its next request when the last is answered.

Cheap on purpose, since it shares the machine with what it measures; its own CPU is not counted.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

from bench.table import quantile


@dataclass
class Load:
    """What came back. `latencies_s` are of every request, `statuses` by code."""

    requests: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list[float])
    statuses: dict[int, int] = field(default_factory=dict[int, int])

    def quantile_ms(self, share: float) -> float:
        """A quantile of the latencies in milliseconds."""
        return quantile(sorted(self.latencies_s), share) * 1e3


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load, request: bytes, ends_at: float) -> None:
        self._load = load
        self._request = request
        self._ends_at = ends_at
        self._buffer = b""
        self._sent_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not is_whole(self._buffer):
            return
        now = time.perf_counter()
        status = int(self._buffer[9:12])
        self._buffer = b""
        self._load.requests += 1
        self._load.latencies_s.append(now - self._sent_at)
        self._load.statuses[status] = self._load.statuses.get(status, 0) + 1
        if now < self._ends_at:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def is_whole(answer: bytes) -> bool:
    """Whether all of an answer with a Content-Length has come."""
    head_end = answer.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    head = answer[:head_end].lower()
    at = head.index(b"content-length:")
    return len(answer) >= head_end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])


async def run_load(port: int, request: bytes, *, connections: int, seconds: float) -> Load:
    """Load a server on loopback for so long."""
    loop = asyncio.get_running_loop()
    load = Load()
    started_at = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: _Connection(load, request, started_at + seconds), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in opened))
    load.seconds = time.perf_counter() - started_at
    return load
