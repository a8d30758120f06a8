"""One process of `bench.ledger`: it opens the store, reserves and settles, and says how long that took.

It says `ready` and waits for a line with the time to begin at, on the clock that all processes of a machine share. In a
closed loop every caller reserves, and settles as soon as it may. In an open loop every byte that comes is an arrival:
when each is due was fixed beforehand, and latencies count from then, so that neither a queue nor a late arrival hides.
It says `done`, waits for a line (the server's CPU is read meanwhile) and prints its figures.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import uvloop

from bench.open_loop import schedule
from spendfuse.clock import SystemClock
from spendfuse.core.decisions import Admitted, Fit
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import CallIds, Charge, reservation_of
from spendfuse.core.usage import Usage
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Span
from spendfuse.ledger.sqlite import open_sqlite
from spendfuse.ledger.store import Demand, Ledger

LIMITS = (
    Limit("company-month", Unit.USD, 10**15, Calendar(CalendarUnit.MONTH)),
    Limit("user-tokens", Unit.TOKENS, 10**12, Calendar(CalendarUnit.MONTH), each=("organization", "user")),
    Limit("feature-week", Unit.USD, 10**14, Calendar(CalendarUnit.WEEK), each=("feature",)),
)
RATE = Limit("key-rate", Unit.REQUESTS, 10**9, Span(60_000), each=("key",))
CAP = 1_000
QUOTE = Quote(input_tokens=1_000, fixed_picos=150_000_000, output_picos=600_000)
CHARGE = Charge(Usage(800, 200), Nanos(240_000))
TIGHT_CHARGE = Charge(Usage(1, 1), Nanos(1))
"""All but free, so that what a limit holds at once stays the same for a whole run."""
BUSY_WAIT_S = 2.0
USERS = 64
WARM_UP_PAIRS = 20
"""Of each caller, before the measured ones: they open balances, register subjects and prepare statements."""
_ARRIVALS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Workload:
    """What all processes of a run do together, of which this one is `process`.

    `offered` calls a second arrive at all of them together; where it is 0, `in_flight` callers in each go round in a
    closed loop. `places` above 0 replaces the limits by one that so many calls fit into at once. `held_s` passes
    between a reserve and its settle, as an upstream would take.
    """

    store: str
    process: int
    processes: int
    seconds: float
    in_flight: int
    offered: float = 0.0
    is_even: bool = True
    has_rate: bool = False
    places: int = 0
    held_s: float = 0.0

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What every call is counted by."""
        rates = (RATE,) if self.has_rate else ()
        if not self.places:
            return (*LIMITS, *rates)
        # A quote more, less the last nano-dollar: room for charges, not for another call.
        held = QUOTE.at(CAP).cost
        return (Limit("hot", Unit.USD, held * (self.places + 1) - 1, Lifetime()), *rates)

    @property
    def charge(self) -> Charge:
        """What every call costs."""
        return TIGHT_CHARGE if self.places else CHARGE

    @property
    def arrivals(self) -> int:
        """How many calls arrive at all processes together."""
        return int(self.offered * self.seconds)


@dataclass(slots=True)
class Figures:
    """Of one process; times in microseconds. `refused` of its callers found no room within the time they wait."""

    pairs: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    reserve_us: list[int] = field(default_factory=list[int])
    settle_us: list[int] = field(default_factory=list[int])


async def open_ledger(store: str, limits: tuple[Limit, ...] | None) -> Ledger:
    """The ledger at an address, or in a file."""
    if store.startswith("postgresql:"):
        from spendfuse.ledger.postgres import open_postgres

        return await open_postgres(store, limits=limits)
    return await open_sqlite(Path(store), limits=limits, clock=SystemClock())


class Caller:
    """Makes the calls of one process."""

    def __init__(self, ledger: Ledger, workload: Workload) -> None:
        self._ledger = ledger
        self._ids = CallIds()
        self._charge = workload.charge
        self._caps = CapRange(CAP, CAP if workload.places else 256)
        self._held_s = workload.held_s
        self._wait_s = BUSY_WAIT_S if workload.places else 0.0
        self._labels = [
            {
                "organization": "acme",
                "user": f"u{user}",
                "key": "app",
                "feature": f"f{user % 4}",
                "model": "gpt-4o-mini",
                "provider": "openai",
            }
            for user in range(USERS)
        ]
        self.figures = Figures()

    async def call(self, user: int, due_s: float) -> None:
        """Reserve and settle; latencies of the reserve count from when it was due."""
        ledger, figures = self._ledger, self.figures
        reservation_id = reservation_of(self._ids.mint(time.time_ns() // 1_000_000, ledger.owner_id), 1)
        labels = self._labels[user % USERS]
        demand = Demand(reservation_id, labels, QUOTE, self._caps, Fit.LOWER, 600.0)
        try:
            outcome = await ledger.reserve(demand, wait_s=self._wait_s)
        except LedgerUnavailable:
            figures.failed += 1
            return
        figures.reserve_us.append(int((time.perf_counter() - due_s) * 1e6))
        if not isinstance(outcome, Admitted):
            assert outcome.can_wait, outcome
            figures.refused += 1
            return
        if self._held_s:
            await asyncio.sleep(self._held_s)
        settled_from_s = time.perf_counter()
        while True:
            try:
                await ledger.settle(reservation_id, self._charge)
                break
            except LedgerUnavailable:
                figures.failed += 1
        figures.settle_us.append(int((time.perf_counter() - settled_from_s) * 1e6))
        figures.pairs += 1

    async def warm_up(self, callers: int) -> int:
        """How many pairs that took."""
        await asyncio.gather(*(self._repeatedly(user, WARM_UP_PAIRS) for user in range(callers)))
        pairs, self.figures = self.figures.pairs, Figures()
        return pairs

    async def closed_loop(self, callers: int, until_s: float) -> None:
        """Every caller calls again as soon as its last call has ended."""

        async def go_round(user: int) -> None:
            while (now_s := time.perf_counter()) < until_s:
                await self.call(user, now_s)

        await asyncio.gather(*(go_round(user) for user in range(callers)))

    async def open_loop(self, workload: Workload, started_s: float, arrivals: BinaryIO) -> None:
        """A call for each byte, due as `schedule` says; returns when all have ended."""
        loop = asyncio.get_running_loop()
        offsets = schedule(workload.offered, workload.arrivals, even=workload.is_even)
        dues_s = [started_s + one for one in itertools.islice(offsets, workload.process, None, workload.processes)]
        calls: list[asyncio.Task[None]] = []
        all_came: asyncio.Future[None] = loop.create_future()

        def arrive() -> None:
            for _ in os.read(arrivals.fileno(), min(_ARRIVALS_MAX, len(dues_s) - len(calls))):
                calls.append(loop.create_task(self.call(len(calls), dues_s[len(calls)])))
            if len(calls) == len(dues_s):
                loop.remove_reader(arrivals.fileno())
                # Orders are waited for again.
                os.set_blocking(arrivals.fileno(), True)
                all_came.set_result(None)

        loop.add_reader(arrivals.fileno(), arrive)
        await all_came
        await asyncio.gather(*calls)

    async def _repeatedly(self, user: int, times: int) -> None:
        for _ in range(times):
            await self.call(user, time.perf_counter())


async def measure(workload: Workload, orders: BinaryIO) -> None:
    """Do what all processes do at the same time, and print this one's part."""
    ledger = await open_ledger(workload.store, workload.limits)
    caller = Caller(ledger, workload)
    warm_up_pairs = await caller.warm_up(workload.in_flight)
    print("ready", flush=True)
    started_s = float(orders.readline())
    gc.collect()
    await asyncio.sleep(started_s - time.perf_counter())
    cpu_s = time.process_time()
    if workload.offered:
        await caller.open_loop(workload, started_s, orders)
    else:
        await caller.closed_loop(workload.in_flight, started_s + workload.seconds)
    figures = caller.figures
    figures.seconds, figures.cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    print("done", flush=True)
    orders.readline()
    await ledger.close()
    print(json.dumps({**asdict(figures), "warm_up_pairs": warm_up_pairs}), flush=True)


def main() -> None:
    """Measure in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", help="as JSON")
    workload = Workload(**json.loads(parser.parse_args().workload))
    # Unbuffered, so that no arrival is read together with an order.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        uvloop.run(measure(workload, orders))


if __name__ == "__main__":
    main()
