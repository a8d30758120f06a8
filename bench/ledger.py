"""How many reserve + settle pairs a second the ledger does on either database, what one costs, and how long it takes.

Every process is a gateway's worker as far as the store can tell, and all share one. In a closed loop (`--in-flight`)
every caller reserves, and settles as soon as it may: the most that can be done. In an open loop (`--offered`) so many
calls a second arrive at all processes together, at times fixed beforehand, and latencies count from when each was due.
There is no upstream time but `--held-ms`. Each run has a fresh store; after it no pair may be missing from the entries,
every balance must equal its fold, and no deadlock may have been seen.

    python -m bench.ledger --engine both --processes 1 2 4 --in-flight 32 --offered 500 2000 5000

With `--tight`, all callers compete for one balance that `--places` calls fit into at once, and wait for it up to 2 s:
who gets how much of it, and who waits longest?
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from bench.ledger_process import Figures, Workload, open_ledger
from bench.open_loop import be_punctual, schedule
from bench.postgres import Postgres, running_postgres
from bench.table import grid, quantile, spread, title

PLACES = 8
START_DELAY_S = 0.05
"""Between telling the processes when to begin and that instant."""

_DATABASE = "ledger"


@dataclass(frozen=True, slots=True)
class Run:
    """What all processes of one run did together; times in microseconds."""

    pairs: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float | None
    reserve_us: list[int] = field(repr=False)
    settle_us: list[int] = field(repr=False)
    shares: list[int]
    """The pairs of each process."""
    refused: int
    failed: int
    lateness_us: float
    """Of the arrivals of an open loop, at p99."""

    def reserve_ms(self, share: float) -> float:
        """A quantile of the time from when a reserve was due to its answer."""
        return quantile(self.reserve_us, share) / 1e3

    def settle_ms(self, share: float) -> float:
        """A quantile of the time of a settle."""
        return quantile(self.settle_us, share) / 1e3

    @property
    def evenness(self) -> float:
        """The pairs of the process that got least, as a part of those of the one that got most."""
        return min(self.shares) / max(self.shares)


def run_once(workload: Workload, postgres: Postgres | None) -> Run:
    """One run on a fresh store; what it left there is checked."""
    with _fresh_store(postgres) as store:
        workload = replace(workload, store=store)
        run, pairs = _run_on(workload, postgres)
        asyncio.run(_check(store, workload, pairs))
        if postgres is not None:
            deadlocks = asyncio.run(postgres.deadlocks(_DATABASE))
            assert deadlocks == 0, f"the server broke up {deadlocks} deadlocks"
    return run


@contextlib.contextmanager
def _fresh_store(postgres: Postgres | None) -> Iterator[str]:
    if postgres is None:
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder, "ledger.db"))
        return
    store = asyncio.run(postgres.create(_DATABASE))
    try:
        yield store
    finally:
        asyncio.run(postgres.drop(_DATABASE))


def _run_on(workload: Workload, postgres: Postgres | None) -> tuple[Run, int]:
    """The run, and how many pairs it has left in the store, those of the warm-up included."""
    lateness_us = 0.0
    with contextlib.ExitStack() as ending:
        processes: list[subprocess.Popen[bytes]] = []
        for number in range(workload.processes):
            ours = json.dumps(asdict(replace(workload, process=number)))
            command = [sys.executable, "-m", "bench.ledger_process", ours]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            processes.append(ending.enter_context(process))
            ending.callback(process.kill)
        for process in processes:
            _expect(process, b"ready\n")
        server_cpu_s = 0.0 if postgres is None else postgres.cpu_s()
        started_s = time.perf_counter() + START_DELAY_S
        for process in processes:
            _pipe(process.stdin).write(f"{started_s}\n".encode())
        if workload.offered:
            lateness_us = _arrive(workload, started_s, [_pipe(one.stdin).fileno() for one in processes])
        for process in processes:
            _expect(process, b"done\n")
        # Before anybody disconnects and audits.
        server_cpu_s = None if postgres is None else postgres.cpu_s() - server_cpu_s
        reports = [json.loads(process.communicate(b"\n")[0]) for process in processes]
    warm_up_pairs = sum(report.pop("warm_up_pairs") for report in reports)
    run = _together([Figures(**report) for report in reports], server_cpu_s, lateness_us)
    return run, run.pairs + warm_up_pairs


def _together(figures: list[Figures], server_cpu_s: float | None, lateness_us: float) -> Run:
    return Run(
        pairs=sum(one.pairs for one in figures),
        seconds=max(one.seconds for one in figures),
        client_cpu_s=sum(one.cpu_s for one in figures),
        server_cpu_s=server_cpu_s,
        reserve_us=sorted(us for one in figures for us in one.reserve_us),
        settle_us=sorted(us for one in figures for us in one.settle_us),
        shares=[one.pairs for one in figures],
        refused=sum(one.refused for one in figures),
        failed=sum(one.failed for one in figures),
        lateness_us=lateness_us,
    )


def _arrive(workload: Workload, started_s: float, pipes: list[int]) -> float:
    """Tell each process in turn of its arrivals, when they are due; how late that was at p99, in microseconds."""
    be_punctual()
    lateness_us: list[float] = []
    gc.disable()
    for number, offset_s in enumerate(schedule(workload.offered, workload.arrivals, even=workload.is_even)):
        due_s = started_s + offset_s
        if (wait_s := due_s - time.perf_counter()) > 0:
            time.sleep(wait_s)
        os.write(pipes[number % len(pipes)], b".")
        lateness_us.append((time.perf_counter() - due_s) * 1e6)
    gc.enable()
    return quantile(sorted(lateness_us), 0.99)


async def _check(store: str, workload: Workload, pairs: int) -> None:
    """Nothing is missing, nothing is there twice, and balances, rollup and entries agree."""
    ledger = await open_ledger(store, None)
    try:
        assert not await ledger.audit()
        spent = await ledger.spend("feature", since_ms=0)
        assert sum(row.calls for row in spent) == pairs, (pairs, spent)
        assert sum(row.cost for row in spent) == pairs * workload.charge.cost, (pairs, spent)
        assert sum(line.reserved for line in await ledger.balances()) == 0
    finally:
        await ledger.close()


def _expect(process: subprocess.Popen[bytes], said: bytes) -> None:
    line = _pipe(process.stdout).readline()
    assert line == said, f"a process said {line!r}, not {said!r}; its standard error says why"


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def columns(runs: list[Run]) -> dict[str, str]:
    """What is printed of several runs of one kind."""
    shown = {
        "pairs/s": spread([run.pairs / run.seconds for run in runs]),
        "reserve p50 ms": spread([run.reserve_ms(0.5) for run in runs], digits=2),
        "p99 ms": spread([run.reserve_ms(0.99) for run in runs], digits=2),
        "longest ms": spread([run.reserve_ms(1.0) for run in runs], digits=1),
        "settle p50 ms": spread([run.settle_ms(0.5) for run in runs], digits=2),
        "p99 ms ": spread([run.settle_ms(0.99) for run in runs], digits=2),
        "client us": spread([run.client_cpu_s / run.pairs * 1e6 for run in runs]),
        "server us": spread([run.server_cpu_s / run.pairs * 1e6 for run in runs if run.server_cpu_s is not None]),
        "least/most": spread([run.evenness for run in runs], digits=2) if len(runs[0].shares) > 1 else "",
    }
    for name, counts in {"refused": [run.refused for run in runs], "failed": [run.failed for run in runs]}.items():
        if any(counts):
            shown[name] = spread(counts)
    return shown


def measure(workloads: list[Workload], engines: dict[str, Postgres | None], *, runs: int) -> None:
    """Let engines and numbers of processes take turns, and print what they did."""
    kinds = [(engine, workload) for engine in engines for workload in workloads]
    done: list[list[Run]] = [[] for _ in kinds]
    for _ in range(runs):
        for several, (engine, workload) in zip(done, kinds, strict=True):
            several.append(run_once(workload, engines[engine]))
    rows = [
        {"store": engine, "processes": str(workload.processes), **columns(several)}
        for several, (engine, workload) in zip(done, kinds, strict=True)
    ]
    grid(rows)
    print(
        "  after every run: no deadlock, a clean audit, and as many calls in the entries as pairs were made", flush=True
    )
    if workloads[0].offered:
        late_us = [run.lateness_us for several in done for run in several]
        print(f"  arrivals were late by {spread(late_us)} us at p99, which is part of the latencies", flush=True)


def be_realtime() -> str:
    """Try to run before everything else on the machine, with whatever this process starts; what became of that."""
    if not hasattr(os, "sched_setscheduler"):
        return "this system has no real-time priority to ask for"
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return "real-time priority is not allowed here: ordinary priority"
    return "at real-time priority (round robin, 1), clients and server"


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    priority = be_realtime() if options.realtime else ""
    names = ["sqlite", "postgres"] if options.engine == "both" else [options.engine]
    with contextlib.ExitStack() as ending:
        engines: dict[str, Postgres | None] = dict.fromkeys(names)
        if "postgres" in engines:
            engines["postgres"] = postgres = ending.enter_context(running_postgres())
            print(f"\n{asyncio.run(postgres.settings())}")
        if priority:
            print(f"\n{priority}")
        for heading, workloads in _groups(options):
            title(heading)
            measure(workloads, engines, runs=options.runs)


def _groups(options: argparse.Namespace) -> Iterator[tuple[str, list[Workload]]]:
    """What is compared: the same load on one, two, … processes."""
    base = Workload(
        store="",
        process=0,
        processes=1,
        seconds=options.seconds,
        in_flight=0,
        is_even=options.arrivals == "even",
        has_rate=options.rate,
        places=options.places if options.tight else 0,
        held_s=options.held_ms / 1e3,
    )
    counted = f"one balance with {options.places} places" if options.tight else "three balances"
    counted += " and a rate" if options.rate else ""
    for in_flight in options.in_flight:
        heading = f"Reserve and settle under {counted}: {in_flight} in flight in each process"
        yield heading, [replace(base, processes=number, in_flight=in_flight) for number in options.processes]
    for offered in options.offered:
        heading = f"Reserve and settle under {counted}: {offered:,.0f} a second at {options.arrivals} times"
        yield heading, [replace(base, processes=number, in_flight=8, offered=offered) for number in options.processes]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--in-flight", type=int, nargs="*", default=[32], help="callers in each process, closed loop")
    parser.add_argument("--offered", type=float, nargs="*", default=[], help="calls a second in all, open loop")
    parser.add_argument("--arrivals", choices=["even", "random"], default="even", help="of an open loop")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", action="store_true", help="count calls by a rate that refills smoothly as well")
    parser.add_argument("--tight", action="store_true", help="let all callers compete for one balance")
    parser.add_argument("--places", type=int, default=PLACES, help="of the tight balance")
    parser.add_argument("--held-ms", type=float, default=0.0, help="between a reserve and its settle")
    parser.add_argument("--realtime", action="store_true", help="at real-time priority, where that is allowed")
    return parser


if __name__ == "__main__":
    main()
