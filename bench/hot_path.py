"""What the parts of a call cost by themselves: CPU microseconds of this process, each part called over and over.

Nothing else runs beside, so these are floors: in a serving worker caches are colder. What a whole call or chunk costs
there is measured by `gateway_cpu` and `streams`.
"""

import argparse
import asyncio
import gc
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvloop

from bench.answers import CHAT_PATH, MESSAGES_PATH, stream_events, whole_answer
from bench.gateway import CONFIG, ENVIRONMENT, running_upstream
from bench.table import row, title
from bench.ways import CHAT, MESSAGES, TRANSLATED, WAYS, Way
from spendfuse.clock import SystemClock
from spendfuse.config import parse
from spendfuse.core.calls import Call
from spendfuse.core.refusals import Deny
from spendfuse.gate.estimates import Estimator
from spendfuse.gate.exchanges import Served, served
from spendfuse.gate.learned import LearnedCaps
from spendfuse.gate.overruns import Overruns
from spendfuse.gate.routes import Route, Routes
from spendfuse.ledger.worker import WorkerThread
from spendfuse.wire.dialect import Dialect, Exchange
from spendfuse.wiring import open_store

T = TypeVar("T")
CALLS = 4_000
CHUNKS = 500
Part = tuple[str, Callable[[], object], int]
"""A name, what runs it, and how often that runs it."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a gateway with the benchmarks' config."""

    serves: Served
    routes: Routes
    estimator: Estimator


def sure(value: T | Deny | None) -> T:
    """The value, which is neither a refusal nor missing."""
    assert value is not None and not isinstance(value, Deny), value
    return value


async def gateway_of(folder: Path) -> Gateway:
    """Made as a process that serves does; the ledger is closed again, as no part here reserves."""
    config = parse(CONFIG.format(base_url="http://127.0.0.1:1/v1"), folder=folder, environ=ENVIRONMENT)
    clock = SystemClock()
    ledger = await open_store(config.store, limits=config.limits)
    overruns = Overruns(ledger)
    await overruns.load()
    await ledger.close()
    estimator = Estimator(config.limits, overruns, LearnedCaps(), output_tokens_default=config.output_tokens_default)
    return Gateway(served(config, clock), Routes(config, clock), estimator)


def parts_of(way: Way, gateway: Gateway) -> Iterator[Part]:
    """What a call on one way goes through, in order."""
    body = way.request().partition(b"\r\n\r\n")[2]
    dialect = gateway.serves.dialects[way.path.removeprefix("/v1/")]
    route = sure(gateway.routes.get(way.model)).turn()[0]
    exchange = gateway.serves.exchanges[dialect.operation, route.api]
    headers = {b"authorization": b"Bearer sk-bench", b"content-type": b"application/json"}
    labels = {"key": "bench", "user": "u1", **route.labels}
    call = sure(dialect.parse(body, headers))
    carried = sure(exchange.carry(call))
    estimate = sure(gateway.estimator.rough(carried, route, labels))
    answer = whole_answer(MESSAGES_PATH if way.model == MESSAGES.model else CHAT_PATH).partition(b"\r\n\r\n")[2]
    usage = sure(exchange.read(answer).metered).usage
    name = way.name
    if way is not TRANSLATED:
        yield f"{name}: read and check the request", lambda: dialect.parse(body, headers), 1
    else:
        yield f"{name}: carry the call over", lambda: exchange.carry(call), 1
    if way is CHAT:
        yield f"{name}: estimate and quote", lambda: gateway.estimator.rough(carried, route, labels), 1
        yield f"{name}: price the usage", lambda: route.charge(estimate.call, usage), 1
    yield f"{name}: write the request", lambda: _rendered(exchange, carried, route), 1
    what = "meter and translate" if way is TRANSLATED else "meter"
    yield f"{name}: {what} a whole answer", lambda: exchange.read(answer), 1
    yield f"{name}: meter a chunk of a stream", _metering(dialect, exchange, way), CHUNKS


def _rendered(exchange: Exchange, call: Call, route: Route) -> bytes:
    exchange.headers_upstream({b"content-type": b"application/json"})
    return exchange.render(call, route.wire, cap=2_000)


def _metering(dialect: Dialect, exchange: Exchange, way: Way) -> Callable[[], None]:
    call = sure(dialect.parse(way.request(deltas=CHUNKS).partition(b"\r\n\r\n")[2], {}))
    chunks = stream_events(MESSAGES_PATH if way.model == MESSAGES.model else CHAT_PATH, CHUNKS)

    def feed_all() -> None:
        meter = exchange.stream_meter(call)
        for chunk in chunks:
            meter.feed(chunk)
        assert meter.usage is not None

    return feed_all


def time_part(run: Callable[[], object], times: int, rounds: int) -> list[float]:
    """Microseconds of each round, per call."""
    repeats = max(1, CALLS // times)
    results: list[float] = []
    for _ in range(rounds):
        before_s = time.process_time()
        for _ in range(repeats):
            run()
        results.append((time.process_time() - before_s) / (repeats * times) * 1e6)
    return results


async def time_hop(rounds: int) -> list[float]:
    """Work handed to the ledger's thread and its answer awaited, one after the other."""
    thread = WorkerThread("hop")
    results: list[float] = []
    for _ in range(rounds):
        before_s = time.process_time()
        for _ in range(CALLS):
            await thread.submit(int)
        results.append((time.process_time() - before_s) / CALLS * 1e6)
    thread.stop()
    return results


def time_write(rounds: int) -> list[float]:
    """One write of a request to a peer that sleeps; only the write counts, not the wait for the answer."""
    results: list[float] = []
    request = CHAT.request()
    with running_upstream() as upstream, socket.create_connection(("127.0.0.1", upstream.port)) as connection:
        for _ in range(rounds):
            spent_s = 0.0
            for _ in range(CALLS):
                before_s = time.thread_time()
                connection.sendall(request)
                spent_s += time.thread_time() - before_s
                connection.recv(65_536)
            results.append(spent_s / CALLS * 1e6)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    title("CPU of the parts of a call, by themselves")
    with tempfile.TemporaryDirectory() as folder:
        gateway = asyncio.run(gateway_of(Path(folder)))
    gc.disable()
    for way in WAYS:
        for name, run, times in parts_of(way, gateway):
            row(name, time_part(run, times, rounds), "us", digits=1)
    row("a hop to the ledger's thread and back", uvloop.run(time_hop(rounds)), "us", digits=1)
    row("a write to a socket whose reader sleeps", time_write(rounds), "us", digits=1)
    gc.enable()


if __name__ == "__main__":
    main()
