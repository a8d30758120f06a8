"""CPU per call of the gate with its ledger on SQLite, without sockets: what is left is Python and the store.

Closed loop in this process: the upstream answers at once, the client takes everything. `loop` is the event loop's
thread alone; the rest is the ledger's.

    python -m bench.gate_flow --profile
"""

import argparse
import asyncio
import cProfile
import gc
import itertools
import pstats
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import uvloop

from bench.answers import CHAT_PATH, MESSAGES_PATH, whole_answer
from bench.gateway import CONFIG, ENVIRONMENT
from bench.table import row, title
from bench.ways import CHAT, MESSAGES, WAYS, Way
from spendfuse.clock import SystemClock
from spendfuse.config import parse
from spendfuse.gate.exchanges import Served, served
from spendfuse.gate.gate import Gate
from spendfuse.gate.requests import Caller, Request
from spendfuse.gate.routes import Routes
from spendfuse.gate.shared import Shared
from spendfuse.ledger.spool import Spool
from spendfuse.upstream.client import UpstreamRequest
from spendfuse.wire.dialect import Answer
from spendfuse.wire.labels import labels_from_headers
from spendfuse.wiring import open_store

WARM_UP_CALLS = 2_000
GC_ALLOCATIONS = 20_000
"""As in the gateway."""
_HEADERS = [(b"host", b"bench"), (b"content-type", b"application/json"), (b"content-length", b"900")]


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer that is there, and the context that it is taken in."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body

    async def read(self, bytes_max: int) -> bytes:
        assert len(self.body) <= bytes_max
        return self.body

    async def __aenter__(self) -> "_Answered":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Upstream:
    """Answers at once, by the path."""

    def __init__(self) -> None:
        self._answers = {path: whole_answer(path).partition(b"\r\n\r\n")[2] for path in (CHAT_PATH, MESSAGES_PATH)}

    def post(self, request: UpstreamRequest) -> _Answered:
        """See `UpstreamClient`."""
        return _Answered(self._answers[MESSAGES_PATH if request.url.endswith(MESSAGES.path) else CHAT_PATH])

    async def close(self) -> None:
        """See `UpstreamClient`."""


class _Client:
    """Takes whole answers, which must be good ones."""

    async def answer(self, answer: Answer) -> None:
        """See `Downstream`."""
        assert answer.status == 200, answer.body

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        """See `Downstream`."""
        raise AssertionError(f"a stream began: {status} {headers}")

    async def send(self, chunk: bytes) -> None:
        """See `Downstream`."""
        raise AssertionError(chunk)

    async def finish(self) -> None:
        """See `Downstream`."""

    async def abort(self) -> None:
        """See `Downstream`."""


async def call_repeatedly(gate: Gate, serves: Served, way: Way, turns: Iterator[None]) -> None:
    """One caller; the callers share the turns."""
    dialect = serves.dialects[way.path.removeprefix("/v1/")]
    body = way.request().partition(b"\r\n\r\n")[2]
    client, caller = _Client(), Caller("bench", {"key": "bench"})
    for _ in turns:
        claimed = labels_from_headers(_HEADERS)
        assert isinstance(claimed, dict)
        await gate.serve(Request(dialect, caller, claimed, "", dict(_HEADERS), body), client)


async def run_calls(gate: Gate, serves: Served, way: Way, *, calls: int, in_flight: int) -> tuple[float, float]:
    """CPU microseconds per call of the whole process, and of the event loop's thread."""
    turns = itertools.repeat(None, calls)
    process_s, loop_s = time.process_time(), time.thread_time()
    await asyncio.gather(*(call_repeatedly(gate, serves, way, turns) for _ in range(in_flight)))
    process_s, loop_s = time.process_time() - process_s, time.thread_time() - loop_s
    return process_s / calls * 1e6, loop_s / calls * 1e6


async def measure(folder: Path, *, calls: int, in_flight: int, runs: int, profile: bool) -> None:
    """Open a gate as a process that serves does, run calls on each way, and print."""
    config, clock = (
        parse(CONFIG.format(base_url="http://127.0.0.1:1/v1"), folder=folder, environ=ENVIRONMENT),
        SystemClock(),
    )
    ledger = await open_store(config.store, limits=config.limits)
    serves = served(config, clock)
    spool = Spool(ledger, config.spool, store=config.store.where)
    shared = Shared(ledger, spool, _Upstream(), clock)
    gate = Gate(config=config, routes=Routes(config, clock), exchanges=serves.exchanges, shared=shared)
    await shared.overruns.load()
    for way in WAYS:
        await run_calls(gate, serves, way, calls=WARM_UP_CALLS, in_flight=in_flight)
        taken = [await run_calls(gate, serves, way, calls=calls, in_flight=in_flight) for _ in range(runs)]
        row(f"{way.name}, in all", [process_us for process_us, _ in taken], "us")
        row(f"{way.name}, loop", [loop_us for _, loop_us in taken], "us")
    if profile:
        with cProfile.Profile() as profiler:
            await run_calls(gate, serves, CHAT, calls=calls, in_flight=in_flight)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    await shared.drain(1.0)
    assert not await ledger.audit()
    await ledger.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--calls", type=int, default=8_000, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="then list where chat calls spend their time")
    options = parser.parse_args()
    gc.set_threshold(GC_ALLOCATIONS)
    title(f"CPU per call of the gate and its ledger without sockets, {options.in_flight} in flight")
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(
            measure(
                Path(folder),
                calls=options.calls,
                in_flight=options.in_flight,
                runs=options.runs,
                profile=options.profile,
            )
        )


if __name__ == "__main__":
    main()
