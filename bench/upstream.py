"""The static upstream: answers of both APIs from memory, so cheap that it is never the bottleneck.

A stream has as many deltas as its prompt asks for (`deltas=500`), each written by itself, `--interval-ms` apart.
Streams that run at once take different parts of the interval, always the same ones: how many of them write in the same
millisecond decides what a chunk costs whoever relays it.

    python -m bench.upstream --interval-ms 5
"""

import argparse
import asyncio
import itertools
import re
from collections.abc import Callable
from typing import cast

import uvloop

from bench.answers import streamed_answer, whole_answer

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')
_DELTAS = re.compile(rb"deltas=(\d+)")
_GOLDEN = 0.618_034
"""Multiples of it, without their whole parts, are spread evenly however many there are."""
_streams = itertools.count()


class _Connection(asyncio.Protocol):
    def __init__(self, interval_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_s = interval_s
        self._buffer = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        assert length is not None, "a request without Content-Length"
        if len(self._buffer) < head_end + 4 + int(length[1]):
            return
        request, self._buffer = self._buffer, b""
        path = request.split(b" ", 2)[1]
        if _STREAMED.search(request, head_end):
            deltas = _DELTAS.search(request, head_end)
            assert deltas is not None, "a prompt that does not say how many deltas it wants"
            self._write_piece(streamed_answer(path, int(deltas[1])), 0, self._first_due_s())
        else:
            self._transport.write(whole_answer(path))

    def _first_due_s(self) -> float:
        """When the second piece of a stream is due: within two intervals, at this stream's part of one."""
        if not self._interval_s:
            return 0.0
        number = self._loop.time() // self._interval_s + 1 + next(_streams) * _GOLDEN % 1
        return number * self._interval_s

    def _write_piece(self, pieces: tuple[bytes, ...], at: int, next_due_s: float) -> None:
        self._transport.write(pieces[at])
        if at + 1 < len(pieces):
            due_s = next_due_s + self._interval_s
            self._next = self._loop.call_at(next_due_s, self._write_piece, pieces, at + 1, due_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()


async def serve(protocol: Callable[[], asyncio.Protocol]) -> None:
    """Serve on a free port, print it, and go on until killed."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval-ms", type=float, default=5.0, help="between the pieces of a stream")
    interval_s = parser.parse_args().interval_ms / 1e3
    uvloop.run(serve(lambda: _Connection(interval_s)))


if __name__ == "__main__":
    main()
