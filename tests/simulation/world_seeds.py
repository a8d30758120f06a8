"""Plays seeds: in a process of its own for tests, and for as long as asked from the command line (`make soak`).

python tests/simulation/world_seeds.py --seconds 600
python tests/simulation/world_seeds.py --engine sqlite --seed 4711
"""

import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gate_harness import START_NS
from world import World
from world_books import Violated
from world_postgres import PostgresWorld, Server
from world_steps import Steps
from world_store import MemoryWorld, SqliteWorld, Store

from spendfuse.clock import FrozenClock

STEPS = 1_000
MEMORY_DISK = Path("/dev/shm")

_servers: dict[str, Server] = {}


class Failed(AssertionError):
    """A seed that broke an invariant: which one, what led to it, and how to see it again."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text, number)
        self.number = number

    def __str__(self) -> str:
        return self.args[0]


def play(engine: str, seed: int, *, steps: int = STEPS, dsn: str = "") -> list[str]:
    """Take a world through its steps and to its end; the last lines of its trace.

    Raises:
        Failed: an invariant is broken.
    """
    clock = FrozenClock(START_NS)
    with _store(engine, clock, dsn) as store:
        world = World(seed, store, clock)
        try:
            _play(world, steps)
        except Violated as violated:
            text = (
                f"{violated}\n  engine {engine}, seed {seed}, step {world.step} of {steps}; to see it again:\n"
                f"  make soak ENGINE={engine} SEED={seed} STEPS={steps}\n"
                "  what led to it:\n    " + "\n    ".join(world.trace)
            )
            raise Failed(text, violated.number) from violated
        return list(world.trace)


def _play(world: World, steps: int) -> None:
    taken = Steps(world)
    world.start()
    for world.step in range(1, steps + 1):
        taken.take()
        world.check_between_steps()
    taken.finish()
    world.check_end()


@contextmanager
def _store(engine: str, clock: FrozenClock, dsn: str) -> Iterator[Store]:
    if engine == "memory":
        yield MemoryWorld(clock)
    elif engine == "sqlite":
        folder = Path(tempfile.mkdtemp(prefix="spendfuse-world-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
        store = SqliteWorld(clock, folder)
        try:
            yield store
        finally:
            store.close()
            shutil.rmtree(folder, ignore_errors=True)
    else:
        if dsn not in _servers:
            _servers[dsn] = Server(dsn, f"world_{random.SystemRandom().randrange(10**9)}")
        store = PostgresWorld(clock, _servers[dsn])
        try:
            yield store
        finally:
            store.close()


def be_quiet() -> None:
    """What the gateways log of their trouble is of no interest here."""
    logging.disable(logging.CRITICAL)
