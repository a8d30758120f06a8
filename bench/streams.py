"""CPU per streamed chunk of the gateway, on the three ways, beside a relay of bytes.

The upstream writes every chunk by itself, an interval after the one before. What a stream costs once (the request, the
ledger, the answer's head) is told apart by two lengths: a chunk costs the difference of their CPU over the difference
of their chunks, and the fixed part is what is left of the shorter streams.
"""

import argparse
import asyncio
import statistics
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.gateway import Server, running_gateway, running_relay, running_upstream
from bench.table import row, title
from bench.ways import CHAT, MESSAGES, WAYS, Way

SHORT_BATCHES = 6
"""Of short streams, which cost so little that one batch says nothing."""
_DELTA_MARKS = {CHAT.path: b'"delta":{"content":" token"}', MESSAGES.path: b'"type":"text_delta"'}


class _Stream(asyncio.Protocol):
    """One call whose answer streams."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[bytes] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        if data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n":
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, slots=True)
class Streamed:
    """What streams of one length have cost."""

    streams: int
    deltas: int
    reads: int
    cpu_s: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of one stream."""
        return self.cpu_s / self.streams * 1e6


async def _stream(port: int, request: bytes, streams: int) -> list[_Stream]:
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: _Stream(request), "127.0.0.1", port) for _ in range(streams)]
    await asyncio.gather(*(protocol.done for _, protocol in opened))
    return [protocol for _, protocol in opened]


def stream(server: Server, way: Way, *, deltas: int, streams: int, batches: int = 1) -> Streamed:
    """Run streams at once, a batch after the other, and check that all of each has come."""
    request = way.request(deltas=deltas)
    cpu_before_s = server.processes.cpu_s()
    ended = [one for _ in range(batches) for one in uvloop.run(_stream(server.port, request, streams))]
    cpu_s = server.processes.cpu_s() - cpu_before_s
    for one in ended:
        answer = b"".join(one.pieces)
        seen = answer.count(_DELTA_MARKS[way.path])
        assert answer.startswith(b"HTTP/1.1 200 ") and seen == deltas, (seen, answer[:2_000])
    return Streamed(len(ended), deltas, sum(len(one.pieces) for one in ended), cpu_s)


@dataclass(frozen=True, slots=True)
class Costs:
    """What one pair of lengths has shown."""

    chunk_us: float
    stream_us: float
    chunks_per_read: float


def costs(short: Streamed, long: Streamed) -> Costs:
    """Tell the chunks' part from the streams'."""
    chunk_us = (long.cpu_us - short.cpu_us) / (long.deltas - short.deltas)
    return Costs(chunk_us, short.cpu_us - chunk_us * short.deltas, long.streams * long.deltas / long.reads)


def measure(server: Server, way: Way, *, deltas: list[int], streams: int) -> Costs:
    """One pair of lengths."""
    short = stream(server, way, deltas=deltas[0], streams=streams, batches=SHORT_BATCHES)
    return costs(short, stream(server, way, deltas=deltas[1], streams=streams))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16, help="at once")
    parser.add_argument("--deltas", type=int, nargs=2, default=[10, 500], help="the two lengths")
    parser.add_argument("--interval-ms", type=float, default=5.0, help="between the chunks of a stream")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    title(
        f"CPU per streamed chunk, {options.streams} streams of {options.deltas[0]} and {options.deltas[1]} chunks, "
        f"one every {options.interval_ms:g} ms"
    )
    with (
        running_upstream(interval_ms=options.interval_ms) as upstream,
        running_gateway(upstream, workers=options.workers) as gateway,
        running_relay(upstream) as relay,
    ):
        servers = {f"{way.name}, a chunk": (gateway, way) for way in WAYS} | {"relay of bytes, a chunk": (relay, CHAT)}
        measured: dict[str, list[Costs]] = {name: [] for name in servers}
        for server, way in servers.values():
            stream(server, way, deltas=10, streams=options.streams)
        for _ in range(options.runs):
            for name, (server, way) in servers.items():
                measured[name].append(measure(server, way, deltas=options.deltas, streams=options.streams))
    for name, runs in measured.items():
        fixed_us = statistics.median(one.stream_us for one in runs)
        more = f"and {fixed_us:,.0f} us a stream; {runs[-1].chunks_per_read:.2f} chunks a read"
        row(name, [one.chunk_us for one in runs], "us", digits=1, more=more)


if __name__ == "__main__":
    main()
