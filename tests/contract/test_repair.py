"""What an audit finds in a store that was tampered with, and what a repair makes of it while calls go on."""

import asyncio

import pytest
from ledger_harness import ACME, DAY, StoreHarness, charge, claim, demand, limit, line_of, rid

from spendfuse.core.decisions import Admitted
from spendfuse.ledger.store import (
    BalanceMismatch,
    DayMismatch,
    Ledger,
    Mismatch,
    RollupMismatch,
    StaleReservation,
)

LIMITS = (limit("day", 1_000, per=DAY), limit("user", 500, each=("user",)), limit("run", 300, each=("run",)))
LABELS = {**ACME, "run": "r1"}
HOUR_MS = 3_600_000

TAMPERINGS: list[tuple[str, list[type[Mismatch]]]] = [
    ("UPDATE balance SET settled = settled - 7", [BalanceMismatch] * 3),
    ("UPDATE balance SET settled = settled + 90, ceiling = 9999", [BalanceMismatch] * 3),
    ("UPDATE balance SET reserved = 0 WHERE subject = '[]'", [BalanceMismatch]),
    ("DELETE FROM balance WHERE subject = '[\"u1\"]'", [BalanceMismatch]),
    ("UPDATE spend SET cost = cost - 1, requests = 9", [RollupMismatch]),
    ("DELETE FROM spend", [RollupMismatch]),
    ("INSERT INTO spend VALUES (900000, 1, 1, 1, 5, 5, 5, 5)", [RollupMismatch]),
    ("INSERT INTO spend VALUES (900000, 99, 1, 1, 5, 5, 5, 5)", [RollupMismatch]),
    ("UPDATE spend_day SET calls = calls + 1 WHERE label = 'user'", [DayMismatch]),
    ("DELETE FROM spend_day", [DayMismatch] * 5),
    ("INSERT INTO spend_day VALUES ('user', 0, 'nobody', 1, 1, 5, 5, 5, 5)", [DayMismatch]),
    ("INSERT INTO reservation SELECT reservation_id, 1, reserved_at_ms, 1, 1, 2, 3, 4, label_set_id, fleeting"
     " FROM entry WHERE reservation_id = 1", [StaleReservation]),
]  # fmt: skip


async def _spent(store_harness: StoreHarness) -> Ledger:
    """Some calls of hours ago, rolled up, and some of now, one of them in flight."""
    ledger = await store_harness.open(*LIMITS)
    for number in (1, 2):
        assert isinstance(await ledger.reserve(demand(number, 50, labels=LABELS)), Admitted)
    await ledger.settle(rid(1), charge(40))
    await ledger.settle(rid(2), charge(30))
    store_harness.clock.advance(ms=3 * HOUR_MS)
    while await ledger.upkeep(None):
        pass
    assert isinstance(await ledger.reserve(demand(3, 50, labels=LABELS)), Admitted)
    assert await ledger.audit() == []
    return ledger


@pytest.mark.parametrize(("tampering", "kinds"), TAMPERINGS)
@claim
async def test_what_was_tampered_with_is_found_and_repaired_while_calls_go_on(
    store_harness: StoreHarness, tampering: str, kinds: list[type[Mismatch]]
) -> None:
    """Invariants 1, 3, 8 and 14: entries and calls in flight are as they were, and ceilings above what is committed."""
    ledger = await _spent(store_harness)
    entries = await store_harness.rows("SELECT * FROM entry")
    whole = await ledger.spend("user", since_ms=0)
    await _tamper(store_harness, tampering)
    commands = await store_harness.open_without_limits()
    assert [type(one) for one in await commands.audit()] == kinds
    calls = asyncio.create_task(_call(ledger, range(10, 40)))
    repaired = await commands.repair()
    await calls
    assert {type(one) for one in repaired} == set(kinds)
    assert await commands.audit() == []
    assert await commands.repair() == []
    assert set(entries) <= set(await store_harness.rows("SELECT * FROM entry"))
    await ledger.settle(rid(3), charge(20))
    assert await commands.audit() == []
    assert (await line_of(ledger, "day")).settled == 40 + 30 + 20 + 30
    rows = await ledger.spend("user", since_ms=0)
    assert [(row.value, row.calls - before.calls) for row, before in zip(rows, whole, strict=True)] == [("u1", 31)]
    over = "SELECT 1 FROM balance WHERE settled + reserved > ceiling OR settled < 0 OR reserved < 0"
    assert await store_harness.rows(over) == []
    assert await store_harness.rows("SELECT count(*) FROM repair") == [(len(repaired),)]
    await store_harness.close()


async def _tamper(store_harness: StoreHarness, tampering: str) -> None:
    if hasattr(store_harness, "dsn"):
        await store_harness.rows(tampering)
        return
    import sqlite3

    with sqlite3.connect(store_harness.path) as connection:  # type: ignore[attr-defined]
        connection.execute(tampering)
    connection.close()


async def _call(ledger: Ledger, numbers: range) -> None:
    for number in numbers:
        assert isinstance(await ledger.reserve(demand(number, 2, labels=LABELS)), Admitted)
        await ledger.settle(rid(number), charge(1))


@claim
async def test_a_repair_of_an_outdated_audit_changes_nothing_and_audits_again(store_harness: StoreHarness) -> None:
    """Two operators at once: a difference must not be made up for twice."""
    ledger = await _spent(store_harness)
    await _tamper(store_harness, "UPDATE balance SET settled = settled - 7")
    one, other = [await store_harness.open_without_limits() for _ in range(2)]
    repaired = await asyncio.gather(one.repair(), other.repair())
    assert sorted(map(len, repaired)) == [0, 3]
    assert await ledger.audit() == []
    assert (await line_of(ledger, "day")).settled == 70
    await store_harness.close()


@claim
async def test_a_balance_that_was_too_low_is_repaired_beyond_its_amount_as_overrun(store_harness: StoreHarness) -> None:
    """Invariants 3 and 7: what was spent meanwhile counts, and nothing more is admitted."""
    ledger = await _spent(store_harness)
    await ledger.settle(rid(3), charge(50))
    await _tamper(store_harness, "UPDATE balance SET settled = 0")
    assert isinstance(await ledger.reserve(demand(4, 290, labels=LABELS)), Admitted)
    await ledger.settle(rid(4), charge(290))
    await ledger.repair()
    rows = await store_harness.rows("SELECT settled, ceiling, overrun FROM balance ORDER BY limit_id")
    assert rows == [(410, 1_000, 0), (410, 500, 0), (410, 410, 110)]
    assert not isinstance(await ledger.reserve(demand(5, 1, labels=LABELS)), Admitted)
    assert await ledger.audit() == []
    await store_harness.close()


@claim
async def test_corrections_are_kept_and_never_changed(store_harness: StoreHarness) -> None:
    ledger = await _spent(store_harness)
    await _tamper(store_harness, "UPDATE balance SET settled = 3 WHERE subject = '[]'")
    await ledger.repair()
    kept = "SELECT what, limit_name, subject, before, after FROM repair"
    expected = ("balance", "day", "[]", '{"settled": 3, "reserved": 50}', '{"settled": 70, "reserved": 50}')
    assert await store_harness.rows(kept) == [expected]
    for change in ("DELETE FROM repair", "UPDATE repair SET what = ''"):
        with pytest.raises(Exception, match="never"):
            await _tamper(store_harness, change)
    await store_harness.close()


@claim
async def test_a_stale_reservation_does_not_keep_the_keeper_from_others(store_harness: StoreHarness) -> None:
    """Invariant 12."""
    ledger = await _spent(store_harness)
    await _tamper(store_harness, TAMPERINGS[-1][0])
    store_harness.clock.advance(ms=10 * HOUR_MS)
    assert [entry.reservation_id for entry in await ledger.expire_due()] == [rid(3)]
    assert [type(one) for one in await ledger.repair()] == [StaleReservation]
    assert await ledger.audit() == []
    await store_harness.close()
