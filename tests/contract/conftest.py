from pathlib import Path

import pytest
from ledger_harness import Harness, MemoryHarness, SqliteHarness, StoreHarness
from postgres_harness import PostgresHarness, empty_postgres

__all__ = ["empty_postgres"]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def harness(request: pytest.FixtureRequest) -> Harness:
    """Every engine in turn."""
    return MemoryHarness() if request.param == "memory" else _store(request)


@pytest.fixture(params=["sqlite", "postgres"])
def store_harness(request: pytest.FixtureRequest) -> StoreHarness:
    """Every engine over a database in turn."""
    return _store(request)


def _store(request: pytest.FixtureRequest) -> StoreHarness:
    if request.param == "sqlite":
        folder: Path = request.getfixturevalue("tmp_path")
        return SqliteHarness(folder / "ledger.db")
    return PostgresHarness(request.getfixturevalue("empty_postgres"))
