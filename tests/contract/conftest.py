from pathlib import Path

import pytest
from ledger_harness import Harness, MemoryHarness, SqliteHarness


@pytest.fixture(params=["memory", "sqlite"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    return MemoryHarness() if request.param == "memory" else SqliteHarness(tmp_path / "ledger.db")
