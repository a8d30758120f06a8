"""How many reserve + settle pairs a second the SQLite ledger does, what one costs, and how long a reserve takes.

Closed loop: every one of `--in-flight` callers in each of `--processes` reserves, and settles as soon as it may. There
is no upstream time. The audit must be clean after every run.

    python -m bench.ledger_pairs --processes 2 --in-flight 32 --seconds 2
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.table import row, title
from spendfuse.clock import SystemClock
from spendfuse.core.decisions import Admitted, Fit
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import CallIds, Charge, reservation_of
from spendfuse.core.usage import Usage
from spendfuse.core.windows import Calendar, CalendarUnit
from spendfuse.ledger.sqlite import open_sqlite
from spendfuse.ledger.store import Demand, Ledger

LIMITS = (
    Limit("company-month", Unit.USD, 10**15, Calendar(CalendarUnit.MONTH)),
    Limit("user-tokens", Unit.TOKENS, 10**12, Calendar(CalendarUnit.MONTH), each=("organization", "user")),
    Limit("feature-week", Unit.USD, 10**14, Calendar(CalendarUnit.WEEK), each=("feature",)),
)
QUOTE = Quote(input_tokens=1_000, fixed_picos=150_000_000, output_picos=600_000)
CHARGE = Charge(Usage(800, 200), Nanos(240_000))


async def call_repeatedly(ledger: Ledger, ids: CallIds, *, caller: int, until_s: float, waits_s: list[float]) -> None:
    """One caller."""
    labels = {
        "organization": "acme",
        "user": f"u{caller}",
        "key": "app",
        "feature": f"f{caller % 4}",
        "model": "gpt-4o-mini",
        "provider": "openai",
    }
    while (started_s := time.perf_counter()) < until_s:
        reservation_id = reservation_of(ids.mint(time.time_ns() // 1_000_000, ledger.owner_id), 1)
        demand = Demand(reservation_id, labels, QUOTE, CapRange(1_000, 256), Fit.LOWER, 600.0)
        outcome = await ledger.reserve(demand)
        waits_s.append(time.perf_counter() - started_s)
        assert isinstance(outcome, Admitted), outcome
        await ledger.settle(reservation_id, CHARGE)


async def measure(database: Path, in_flight: int, seconds: float) -> dict[str, float]:
    """One process: its pairs, its CPU and its reserve times."""
    ledger = await open_sqlite(database, limits=LIMITS, clock=SystemClock())
    ids = CallIds()
    waits_s: list[float] = []
    started_s, cpu_s = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as callers:
        for caller in range(in_flight):
            callers.create_task(
                call_repeatedly(ledger, ids, caller=caller, until_s=started_s + seconds, waits_s=waits_s)
            )
    elapsed_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    assert not await ledger.audit()
    await ledger.close()
    waits_s.sort()
    return {
        "pairs": len(waits_s),
        "pairs_per_s": len(waits_s) / elapsed_s,
        "cpu_us": cpu_s * 1e6 / len(waits_s),
        "p50_ms": waits_s[len(waits_s) // 2] * 1e3,
        "p99_ms": waits_s[len(waits_s) * 99 // 100] * 1e3,
    }


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run, all processes together; quantiles are those of the slowest process."""

    cpu_us: float
    pairs_per_s: float
    p50_ms: float
    p99_ms: float


def run_processes(processes: int, *, in_flight: int, seconds: float) -> Run:
    """Let processes work on one store, and add up what they did."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.ledger_pairs", "--database", f"{folder}/ledger.db"]
        command += ["--in-flight", str(in_flight), "--seconds", str(seconds)]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
        results = [json.loads(one.communicate()[0]) for one in started]
    return Run(
        cpu_us=sum(one["cpu_us"] * one["pairs"] for one in results) / sum(one["pairs"] for one in results),
        pairs_per_s=sum(one["pairs_per_s"] for one in results),
        p50_ms=max(one["p50_ms"] for one in results),
        p99_ms=max(one["p99_ms"] for one in results),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=32, help="callers in each process")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--database", type=Path, help="measure in this process only, on this store")
    options = parser.parse_args()
    if options.database is not None:
        figures = uvloop.run(measure(options.database, options.in_flight, options.seconds))
        print(json.dumps(figures))
        return
    title(f"Reserve and settle on SQLite, {options.processes} process(es), {options.in_flight} in flight in each")
    runs = [
        run_processes(options.processes, in_flight=options.in_flight, seconds=options.seconds)
        for _ in range(options.runs)
    ]
    row("CPU of a pair", [one.cpu_us for one in runs], "us")
    row("pairs a second", [one.pairs_per_s for one in runs], "")
    row("reserve p50", [one.p50_ms for one in runs], "ms", digits=2)
    row("reserve p99", [one.p99_ms for one in runs], "ms", digits=2)


if __name__ == "__main__":
    main()
