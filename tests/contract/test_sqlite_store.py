"""What only a SQLite store has: a file, its schema, its lock, and other processes."""

import asyncio
import fcntl
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ledger_harness import SqliteHarness, admitted, back, charge, claim, committed, demand, limit, refused, rid

from spendfuse.clock import SystemClock
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.ledger.definitions import limit_text
from spendfuse.ledger.sqlite import open_sqlite
from spendfuse.ledger.sqlite_file import migrate, sqlite_has_wal_race
from spendfuse.ledger.statements import migrations

LIMITS = (limit("total", 5_000), limit("user", 2_000, each=("user",)))

VERSIONS = [
    ((3, 6, 23), False),
    ((3, 7, 0), True),
    ((3, 40, 1), True),
    ((3, 44, 5), True),
    ((3, 44, 6), False),
    ((3, 45, 0), True),
    ((3, 50, 6), True),
    ((3, 50, 7), False),
    ((3, 51, 2), True),
    ((3, 51, 3), False),
    ((3, 52, 0), False),
]


@pytest.mark.parametrize(("version", "has_race"), VERSIONS)
def test_the_versions_with_the_wal_race_are_known(version: tuple[int, int, int], has_race: bool) -> None:
    assert sqlite_has_wal_race(version) is has_race


@claim
async def test_a_new_store_is_migrated_once_and_private(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "ledger.db")
    await harness.open(*LIMITS)
    await harness.open(*LIMITS)
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    raw = sqlite3.connect(harness.path)
    applied = raw.execute("SELECT number FROM migration ORDER BY number").fetchall()
    assert applied == [(number,) for number, _, _ in migrations("sqlite")]
    assert raw.execute("SELECT count(*) FROM config").fetchone() == (1,)
    raw.close()
    await harness.close()


@claim
async def test_a_store_of_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "ledger.db")
    await (await harness.open(*LIMITS)).close()
    raw = sqlite3.connect(harness.path)
    with raw:
        raw.execute("INSERT INTO migration VALUES (9999, 'later', 0)")
    raw.close()
    with pytest.raises(LedgerError, match="schema 9999"):
        await harness.open(limit("other", 1))
    raw = sqlite3.connect(harness.path)
    assert raw.execute("SELECT count(*) FROM config").fetchone() == (1,)
    raw.close()


@claim
async def test_a_store_of_an_older_schema_is_upgraded_and_knows_its_subjects(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "ledger.db")
    user = LIMITS[1]
    raw = sqlite3.connect(harness.path, isolation_level=None)
    migrate(raw, 0, migrations("sqlite")[:1])
    raw.execute("INSERT INTO applied_limit VALUES (1, ?, ?, 0)", (user.identity, limit_text(user)))
    raw.execute("INSERT INTO override VALUES (1, '[\"u1\"]', 2000)")
    raw.close()
    ledger = await harness.open(*LIMITS)
    await admitted(ledger, 2, 100, labels={"user": "u1"}, new_subjects=1)
    await admitted(ledger, 3, 100, labels={"user": "u2"}, new_subjects=1)
    await refused(ledger, 4, 100, labels={"user": "u3"}, new_subjects=1)
    assert await ledger.overruns() == []
    await harness.close()


@claim
async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "ledger.db")
    first = await harness.open(*LIMITS)
    await admitted(first, 1, 100)
    entry = await first.settle(rid(1), charge(40))
    await first.close()
    second = await harness.open(*LIMITS)
    assert await second.settle(rid(1), charge(99)) == entry
    assert await committed(second, "total") == (40, 0)
    await harness.close()


@pytest.mark.parametrize("change", ["UPDATE entry SET cost = 0", "DELETE FROM entry"])
@claim
async def test_the_store_itself_refuses_to_change_entries(change: str, tmp_path: Path) -> None:
    """Invariant 14."""
    harness = SqliteHarness(tmp_path / "ledger.db")
    ledger = await harness.open(*LIMITS)
    await admitted(ledger, 1, 100)
    await ledger.settle(rid(1), charge(40))
    await harness.close()
    raw = sqlite3.connect(harness.path)
    with pytest.raises(sqlite3.IntegrityError, match="entries"):
        raw.execute(change)
    raw.close()


@claim
async def test_a_lock_that_another_process_holds_fails_verbs_within_the_bound(tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"
    ledger = await open_sqlite(database, limits=LIMITS, timeout_s=0.2)
    await admitted(ledger, 1, 10)
    loop = asyncio.get_running_loop()
    with (tmp_path / "ledger.db.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started_at = loop.time()
        verbs = [ledger.reserve(demand(2, 10)), ledger.settle(rid(1), charge(5)), ledger.expire_due()]
        outcomes = await asyncio.gather(*verbs, return_exceptions=True)
        with pytest.raises(LedgerUnavailable, match="lock"):
            await open_sqlite(database, limits=LIMITS, timeout_s=0.2)
        assert loop.time() - started_at < 1.0
        assert await committed(ledger, "total") == (0, 10)  # who only reads does not wait
    assert all(isinstance(one, LedgerUnavailable) for one in outcomes)
    await back(ledger)
    assert (await ledger.settle(rid(1), charge(5))).amounts.cost == 5
    # The reserve that nobody awaited any more held nothing, or was voided.
    await admitted(ledger, 3, 1_995)
    assert await ledger.audit() == []
    await ledger.close()


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 100])
@claim
async def test_a_file_that_is_no_database_is_unavailable(content: bytes, tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"
    database.write_bytes(content)
    with pytest.raises(LedgerUnavailable, match="not a database"):
        await open_sqlite(database, limits=LIMITS)
    assert database.read_bytes() == content


@claim
async def test_a_folder_that_is_missing_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="No such file"):
        await open_sqlite(tmp_path / "missing" / "ledger.db", limits=LIMITS)


@claim
async def test_a_full_disk_fails_the_verb_and_loses_nothing(tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"
    ledger = await open_sqlite(database, limits=LIMITS)
    await admitted(ledger, 1, 10)
    writer = ledger._engine._writer._connection  # type: ignore[attr-defined]
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count={pages}")
    reserves = [ledger.reserve(demand(n, 1, labels={"user": "u" * 120 + str(n)})) for n in range(2, 300)]
    outcomes = await asyncio.gather(*reserves, return_exceptions=True)
    assert any(isinstance(one, LedgerUnavailable) and "full" in str(one) for one in outcomes)
    writer.execute("PRAGMA max_page_count=1000000")
    assert (await ledger.settle(rid(1), charge(4))).amounts.cost == 4
    assert await ledger.audit() == []
    await ledger.close()


@claim
async def test_no_checkpoint_runs_outside_the_lock(tmp_path: Path) -> None:
    """The reader never checkpoints, and the last close happens under the lock."""
    database = tmp_path / "ledger.db"
    ledger = await open_sqlite(database, limits=LIMITS, timeout_s=0.2)
    await admitted(ledger, 1, 10)
    wal = tmp_path / "ledger.db-wal"
    assert wal.stat().st_size > 0
    with (tmp_path / "ledger.db.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LedgerUnavailable):
            await ledger.close()
        assert wal.stat().st_size > 0
    # Once the lock is free, the writer's thread closes after all.
    again = await open_sqlite(database, limits=LIMITS)
    await again.expire_due()
    assert await committed(again, "total") == (10, 0)
    await again.close()


WORKER = textwrap.dedent(
    """
    import asyncio, random, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from ledger_harness import charge, demand, rid
    from test_sqlite_store import LIMITS
    from spendfuse.core.decisions import Admitted
    from spendfuse.core.reservations import CallIds, reservation_of
    from spendfuse.ledger.sqlite import open_sqlite

    async def call(ledger, ids, dice):
        for _ in range(60):
            number = reservation_of(ids.mint(time.time_ns() // 1_000_000, ledger.owner_id), 1)
            cap = dice.randint(1, 200)
            labels = {"user": f"u{dice.randint(1, 4)}"}
            outcome = await ledger.reserve(demand(number, cap, useful=1, labels=labels))
            if isinstance(outcome, Admitted):
                if dice.random() < 0.7:
                    spent = charge(dice.randint(0, outcome.cap) // 8)
                    await asyncio.gather(ledger.settle(number, spent), ledger.settle(number, spent))
                else:
                    await ledger.void(number)

    async def main():
        ledger = await open_sqlite(Path(sys.argv[1]), limits=LIMITS)
        ids, dice = CallIds(), random.Random(int(sys.argv[3]))
        await asyncio.gather(*[call(ledger, ids, dice) for _ in range(12)])
        await ledger.close()

    asyncio.run(main())
    """
)


@claim
async def test_processes_that_share_a_store_never_exceed_a_limit(tmp_path: Path) -> None:
    """Invariants 2, 6 and 8, over real processes and the store's own snapshots."""
    database = tmp_path / "ledger.db"
    ledger = await open_sqlite(database, limits=LIMITS, clock=SystemClock())
    command = [sys.executable, "-c", WORKER, str(database), str(Path(__file__).parent)]
    workers = [subprocess.Popen([*command, str(seed)]) for seed in range(3)]
    looks = 0
    while any(worker.poll() is None for worker in workers):
        for line in await ledger.balances():
            assert line.settled + line.reserved <= line.amount
            looks += 1
        await asyncio.sleep(0.02)
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert looks > 0
    assert await ledger.audit() == []
    lines = {(line.limit_name, line.subject): line for line in await ledger.balances()}
    assert all(line.reserved == 0 for line in lines.values())
    assert 0 < lines["total", "[]"].settled <= 5_000
    await ledger.close()


def test_the_folder_of_sql_is_used_to_the_last_statement() -> None:
    ledger = Path(__file__).parents[2] / "src" / "spendfuse" / "ledger"
    code = "".join(file.read_text() for file in ledger.glob("*.py"))
    unused = [file.stem for file in (ledger / "sql" / "sqlite").iterdir() if f'"{file.stem}"' not in code]
    assert unused == []
