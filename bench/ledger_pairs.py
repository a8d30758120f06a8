"""How many reserve + settle pairs a second the SQLite ledger does, what one costs, and how long a reserve takes.

Closed loop: every one of `--in-flight` callers in each of `--processes` reserves, and settles as soon as it may. There
is no upstream time. The audit must be clean after every run.

    python bench/ledger_pairs.py --processes 2 --in-flight 32 --seconds 3
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

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


def main() -> None:
    """Run the processes and print their figures together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=32, help="callers in each process")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--database", type=Path, help="measure in this process only, on this store")
    options = parser.parse_args()
    if options.database is not None:
        figures = uvloop.run(measure(options.database, options.in_flight, options.seconds))
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--database", f"{folder}/ledger.db"]
        command += ["--in-flight", str(options.in_flight), "--seconds", str(options.seconds)]
        runs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(options.processes)]
        results = [json.loads(run.communicate()[0]) for run in runs]
    pairs = sum(one["pairs"] for one in results)
    print(
        f"{options.processes} x {options.in_flight}: {sum(one['pairs_per_s'] for one in results):,.0f} pairs/s, "
        f"{sum(one['cpu_us'] * one['pairs'] for one in results) / pairs:.0f} us CPU a pair, "
        f"reserve p50 {max(one['p50_ms'] for one in results):.2f} ms, "
        f"p99 {max(one['p99_ms'] for one in results):.2f} ms (the slowest process)"
    )


if __name__ == "__main__":
    main()
