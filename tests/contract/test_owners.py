"""Processes that die, close or lose their lease; and the keeper, which ends what they leave."""

import asyncio
import logging
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ledger_harness import (
    Harness,
    SqliteHarness,
    StoreHarness,
    admitted,
    charge,
    claim,
    committed,
    contract,
    demand,
    limit,
    rid,
)

from spendfuse.clock import FrozenClock, SystemClock
from spendfuse.core.decisions import Admitted
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.reservations import CallIds, Entry, EntryKind
from spendfuse.ledger.keeper import Keeper
from spendfuse.ledger.sqlite import open_sqlite

LIMITS = (limit("l", 1_000),)


@contract
async def test_what_a_dead_owner_held_is_charged_at_its_quote_at_once(harness: Harness) -> None:
    """Invariants 5 and 12."""
    dead, alive, third = [await harness.open(*LIMITS) for _ in range(3)]
    await admitted(dead, 1, 100)
    await admitted(third, 2, 50)
    assert await alive.expire_due() == ()
    harness.kill(dead)
    (entry,) = await alive.expire_due()
    assert (entry.reservation_id, entry.kind, entry.estimated) == (1, EntryKind.EXPIRED, True)
    assert await alive.expire_due() == ()
    assert await committed(alive, "l") == (100, 50)


@contract
async def test_closing_expires_what_is_still_open(harness: Harness) -> None:
    one, two = await harness.open(*LIMITS), await harness.open(*LIMITS)
    await admitted(one, 1, 100)
    await admitted(two, 2, 50)
    await one.close()
    assert await committed(two, "l") == (100, 50)
    assert (await two.settle(rid(1), charge(30))).kind is EntryKind.LATE
    assert await committed(two, "l") == (30, 50)


@contract
async def test_owners_have_numbers_that_call_ids_tell_apart(harness: Harness) -> None:
    ledgers = [await harness.open(*LIMITS) for _ in range(3)]
    assert len({CallIds().mint(1_800_000_000_000, one.owner_id) for one in ledgers}) == 3
    assert all(one.owner_id > 0 for one in ledgers)


@claim
async def test_an_owner_that_lost_its_lease_registers_anew_and_settles_late(store_harness: StoreHarness) -> None:
    harness = store_harness
    one, two = await harness.open(*LIMITS), await harness.open(*LIMITS)
    await admitted(one, 1, 100)
    lost = one.owner_id
    harness.kill(one)
    assert len(await two.expire_due()) == 1
    entry = await one.settle(rid(1), charge(60))
    assert (entry.kind, entry.amounts.cost) == (EntryKind.LATE, -40)
    assert one.owner_id != lost
    await admitted(one, 2, 100)
    assert await two.expire_due() == ()
    await harness.close()


@claim
async def test_the_lease_is_renewed_while_the_keeper_asks(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "ledger.db")
    ledger = await harness.open(*LIMITS)
    until_ms: list[int] = []
    for _ in range(3):
        harness.clock.advance(ms=5_000)
        await ledger.expire_due()
        raw = sqlite3.connect(harness.path)
        until_ms += [
            row[0] - harness.clock.now_ns() // 1_000_000 for row in raw.execute("SELECT lease_until_ms FROM owner")
        ]
        raw.close()
    assert until_ms == [30_000] * 3
    await harness.close()


HOLDER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from ledger_harness import demand, limit
    from spendfuse.ledger.sqlite import open_sqlite

    async def hold():
        ledger = await open_sqlite(Path(sys.argv[1]), limits=(limit("l", 1_000),))
        await asyncio.gather(*[ledger.reserve(demand(number, 10)) for number in range(1, 6)])
        print("held", flush=True)
        await asyncio.sleep(600)

    asyncio.run(hold())
    """
)


@claim
async def test_a_killed_process_is_known_to_be_dead_at_once(tmp_path: Path) -> None:
    """Invariants 5, 7, 8 and 12, by kill -9."""
    database = tmp_path / "ledger.db"
    ledger = await open_sqlite(database, limits=LIMITS, clock=SystemClock())
    command = [sys.executable, "-c", HOLDER, str(database), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        line = await asyncio.to_thread(holder.stdout.readline)
        assert line == b"held\n"
        assert await ledger.expire_due() == ()
        holder.send_signal(signal.SIGKILL)
    entries = await ledger.expire_due()
    assert [entry.kind for entry in entries] == [EntryKind.EXPIRED] * 5
    assert await committed(ledger, "l") == (50, 0)
    assert await ledger.audit() == []
    await ledger.close()
    assert list((tmp_path / "ledger.db.owners").iterdir()) == []


@contract
async def test_the_keeper_expires_and_stops_cleanly(harness: Harness) -> None:
    """Invariant 12."""
    ledger = await harness.open(*LIMITS)
    await admitted(ledger, 1, 100, deadline_s=1)
    harness.clock.advance(ms=1_000)
    keeper = Keeper(ledger, interval_s=0.005)
    keeper.start()
    while await committed(ledger, "l") != (100, 0):
        await asyncio.sleep(0.001)
    await keeper.stop()


@claim
async def test_the_keeper_survives_a_store_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        rounds = 0

        async def expire_due(self) -> tuple[Entry, ...]:
            self.rounds += 1
            if self.rounds == 1:
                raise LedgerUnavailable("the disk is full")
            return ()

    store = Away()
    keeper = Keeper(store, interval_s=0.001)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        keeper.start()
        while store.rounds < 3:
            await asyncio.sleep(0.001)
        await keeper.stop()
    assert [record.getMessage() for record in caplog.records] == ["expiry_failed reason=the disk is full"]


@claim
async def test_the_keeper_ends_with_its_ledger(tmp_path: Path) -> None:
    ledger = await open_sqlite(tmp_path / "ledger.db", limits=LIMITS, clock=FrozenClock(10**18))
    assert isinstance(await ledger.reserve(demand(1, 1)), Admitted)
    keeper = Keeper(ledger, interval_s=0.001)
    keeper.start()
    await ledger.close()
    await keeper.stop()
