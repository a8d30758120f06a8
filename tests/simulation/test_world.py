"""Whole worlds by their seeds: several processes on one store, and everything that can go wrong; see `world_steps`.

Invariants 1 to 14, 17 and 18 are checked after every step. A failure prints the command that plays it again.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from world_seeds import play, workers

SEEDS = {"memory": range(40), "sqlite": range(40, 180), "postgres": range(180, 200)}
AT_ONCE = {"memory": 40, "sqlite": 28, "postgres": 7}
SEED_OF_ALL = 7


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes that play."""
    with workers() as made:
        yield made


def _some() -> list[tuple[str, range]]:
    return [
        (engine, seeds[at : at + AT_ONCE[engine]])
        for engine, seeds in SEEDS.items()
        for at in range(0, len(seeds), AT_ONCE[engine])
    ]


@pytest.mark.parametrize(("engine", "seeds"), _some(), ids=lambda one: one if isinstance(one, str) else f"from{one[0]}")
def test_no_fault_death_or_repeated_message_breaks_an_invariant(
    engine: str, seeds: range, pool: ProcessPoolExecutor, request: pytest.FixtureRequest
) -> None:
    dsn = request.getfixturevalue("postgres_dsn") if engine == "postgres" else ""
    played = [pool.submit(play, engine, seed, dsn=dsn) for seed in seeds]
    try:
        assert [one.result().seed for one in played] == list(seeds)
    finally:
        for one in played:
            one.cancel()


@pytest.mark.parametrize("engine", ["memory", "sqlite", "postgres"])
def test_a_seed_gives_the_same_history_each_time(engine: str, request: pytest.FixtureRequest) -> None:
    dsn = request.getfixturevalue("postgres_dsn") if engine == "postgres" else ""
    digests: set[str] = set()
    for _ in range(2):
        # A process of its own each time, so that nothing is left over and hashes are others.
        with workers() as fresh:
            digests.add(fresh.submit(play, engine, SEED_OF_ALL, steps=300, dsn=dsn).result().digest)
    assert len(digests) == 1
