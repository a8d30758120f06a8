"""Upkeep: the rollup of days, and retention, on both databases; `memory` keeps everything and needs neither."""

import asyncio
from typing import Any

import pytest
from ledger_harness import (
    DAY,
    LIFETIME,
    NOON_NS,
    Harness,
    StoreHarness,
    admitted,
    charge,
    claim,
    committed,
    contract,
    demand,
    limit,
)

from spendfuse.core.errors import LedgerError, LedgerUnavailable, ReservationForgotten
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.reservations import CallIds, EntryKind, ReservationId, reservation_of
from spendfuse.core.windows import Span
from spendfuse.ledger.memory import open_memory
from spendfuse.ledger.pieces import PIECE_ENTRIES
from spendfuse.ledger.store import Ledger, SpendRow
from spendfuse.ledger.upkeep import Caretaker

NOON_MS = NOON_NS // 1_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RETENTION_MS = 40 * DAY_MS
LONG = Span(20_000 * DAY_MS)
"""Its window began in 2024, and ends when nobody cares."""
ODD = {"user": 'o"\\é/', "tag.a-b": "x'y", "run": "r[0]"}
POSITIONS = "SELECT until_ms, horizon_ms FROM rolled_up, retention"


class Calls:
    """Makes calls, with ids of their time as the gateway mints them."""

    def __init__(self, harness: Harness, ledger: Ledger) -> None:
        self._harness = harness
        self._ledger = ledger
        self._ids = CallIds()

    async def reserve(self, cap: int, **kwargs: Any) -> ReservationId:
        now_ms = self._harness.clock.now_ns() // 1_000_000
        number = reservation_of(self._ids.mint(now_ms, 1), 1)
        await admitted(self._ledger, number, cap, **kwargs)
        return number

    async def spend(self, tokens: int, **kwargs: Any) -> ReservationId:
        number = await self.reserve(tokens, **kwargs)
        await self._ledger.settle(number, charge(tokens))
        return number


async def keep_up(ledger: Ledger, retention_ms: int | None = None) -> None:
    while await ledger.upkeep(retention_ms):
        pass


async def reports(ledger: Ledger) -> list[list[SpendRow]]:
    """Every label, whole and cut anywhere."""
    labels = ("user", "tag.a-b", "run", "ip", "fingerprint", "no-such")
    cuts = [(0, None), (-90_000, 90_000), (-DAY_MS // 2 - 1, DAY_MS // 2 + 1), (-2 * DAY_MS, DAY_MS)]
    return [
        list(await ledger.spend(label, since_ms=NOON_MS + since, until_ms=until and NOON_MS + until))
        for label in labels
        for since, until in cuts
    ]


@contract
async def test_reports_are_the_same_before_and_after_upkeep(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 10_000))
    calls = Calls(harness, ledger)
    for labels in (ODD, {"user": "u1", "run": "r1"}, {"user": "u1", "ip": "::1", "fingerprint": "f"}, {}, ODD):
        await calls.spend(10, labels=labels)
        harness.clock.advance(ms=7 * HOUR_MS + 1)
    await ledger.void(await calls.reserve(10, labels={"user": "void"}))
    harness.clock.advance(ms=DAY_MS)
    before = await reports(ledger)
    assert sum(row.calls for row in before[0]) == 5
    await keep_up(ledger)
    assert await reports(ledger) == before


@claim
async def test_what_is_settled_late_is_added_to_its_day_at_once(store_harness: StoreHarness) -> None:
    """Invariant 7: in the transaction of its entry; so is what a repeated batch, an expiry and a record write."""
    ledger = await store_harness.open(limit("l", 10_000))
    calls = Calls(store_harness, ledger)
    late, settled, expired = [await calls.reserve(100, labels=ODD, deadline_s=9e5) for _ in range(3)]
    await calls.spend(5, labels=ODD)
    store_harness.clock.advance(ms=3 * HOUR_MS)
    await keep_up(ledger)
    await ledger.void(late)
    await asyncio.gather(*[ledger.settle(one, charge(40)) for one in (late, settled, late)])
    await ledger.record(demand(1, 9, labels={"user": "u2"}), charge(9), at_ms=NOON_MS)
    store_harness.clock.advance(ms=10**9)
    assert [entry.kind for entry in await ledger.expire_due()] == [EntryKind.EXPIRED]
    assert expired
    days = await store_harness.rows(
        "SELECT label, value, requests, calls, cost FROM spend_day ORDER BY label, value, day_ms"
    )
    assert days == [
        ("", "", 5, 5, 194),
        ("run", "r[0]", 4, 4, 185),
        ("tag.a-b", "x'y", 4, 4, 185),
        ("user", 'o"\\é/', 4, 4, 185),
        ("user", "u2", 1, 1, 9),
    ]
    assert await ledger.audit() == []
    await store_harness.close()


@claim
async def test_a_piece_is_bounded_and_none_is_done_twice(store_harness: StoreHarness) -> None:
    ledger = await store_harness.open(limit("l", 10**9))
    calls = Calls(store_harness, ledger)
    for _ in range(6):
        await asyncio.gather(*[calls.spend(1) for _ in range(PIECE_ENTRIES // 4)])
        store_harness.clock.advance(ms=60_000)
    assert not await store_harness.rows("SELECT * FROM spend_day")
    store_harness.clock.advance(ms=DAY_MS)
    pieces = 0
    counted = [0]
    while await ledger.upkeep(None):
        pieces += 1
        counted += (await store_harness.rows("SELECT requests FROM spend_day WHERE label = ''"))[0]
        assert counted[-1] - counted[-2] <= PIECE_ENTRIES
    assert (pieces, counted[-1]) == (2, 6 * (PIECE_ENTRIES // 4))
    assert await ledger.audit() == []
    await store_harness.close()


@claim
async def test_retention_deletes_entries_and_past_balances_and_keeps_reports(store_harness: StoreHarness) -> None:
    """Invariants 8 and 14."""
    limits = (limit("day", 1_000, per=DAY, each=("user",)), limit("whole", 10_000, per=LIFETIME, each=("user",)))
    ledger = await store_harness.open(*limits, limit("runs", 10_000, per=LIFETIME, each=("run",)))
    calls = Calls(store_harness, ledger)
    for day in range(50):
        await calls.spend(10 + day, labels={"user": f"u{day % 3}", "run": f"r{day % 5}"})
        store_harness.clock.advance(ms=DAY_MS)
    whole = [list(await ledger.spend(label, since_ms=0)) for label in ("user", "run")]
    balances = await ledger.balances("whole"), await ledger.balances("runs")
    await keep_up(ledger, RETENTION_MS)
    ((rolled_up_until_ms, horizon_ms),) = await store_harness.rows(POSITIONS)
    assert NOON_MS + 9 * DAY_MS < horizon_ms <= NOON_MS + 10 * DAY_MS < rolled_up_until_ms
    ((entries, oldest_ms),) = await store_harness.rows("SELECT count(*), min(reserved_at_ms) FROM entry")
    assert (entries, oldest_ms) == (40, NOON_MS + 10 * DAY_MS)
    past = await store_harness.rows("SELECT count(*), min(starts_at_ms) FROM balance WHERE ends_at_ms IS NOT NULL")
    assert past == [(40, horizon_ms)]
    assert await ledger.audit() == []
    assert [list(await ledger.spend(label, since_ms=0)) for label in ("user", "run")] == whole
    assert (await ledger.balances("whole"), await ledger.balances("runs")) == balances
    await calls.spend(7, labels={"user": "u1", "run": "r1"})
    await keep_up(ledger, RETENTION_MS)
    assert await ledger.audit() == []
    await store_harness.close()


@claim
async def test_a_limit_that_comes_into_force_after_retention_counts_what_was_spent_before_it(
    store_harness: StoreHarness,
) -> None:
    ledger = await store_harness.open()
    calls = Calls(store_harness, ledger)
    for _ in range(60):
        await calls.spend(10, labels={"user": "u1"})
        store_harness.clock.advance(ms=DAY_MS)
    await keep_up(ledger, RETENTION_MS)
    later = await store_harness.open(limit("whole", 10_000, per=LIFETIME), limit("long", 10_000, per=LONG))
    assert await committed(later, "whole") == await committed(later, "long") == (600, 0)
    assert await later.audit() == []
    store_harness.clock.advance(ms=20 * DAY_MS)
    await keep_up(later, RETENTION_MS)
    assert await committed(later, "whole") == await committed(later, "long") == (600, 0)
    assert await later.audit() == []
    await store_harness.close()


@claim
async def test_what_retention_has_deleted_is_never_charged_again(store_harness: StoreHarness) -> None:
    """Invariant 6, for as long as ids say when they were minted."""
    ledger = await store_harness.open(limit("whole", 10_000, per=LIFETIME))
    calls = Calls(store_harness, ledger)
    settled, expired = await calls.spend(10), await calls.reserve(20, deadline_s=1)
    store_harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    store_harness.clock.advance(ms=60 * DAY_MS)
    await keep_up(ledger, RETENTION_MS)
    assert await store_harness.rows("SELECT * FROM entry") == []
    again = demand(settled, 10)
    for verb in (
        lambda: ledger.settle(settled, charge(10)),
        lambda: ledger.settle(expired, charge(5)),
        lambda: ledger.void(expired),
        lambda: ledger.reserve(again),
        lambda: ledger.record(again, charge(10), at_ms=NOON_MS),
    ):
        with pytest.raises(ReservationForgotten, match="retention"):
            await verb()
    assert await committed(ledger, "whole") == (30, 0)
    assert await ledger.audit() == []
    await store_harness.close()


@claim
async def test_a_call_that_ends_after_its_entries_would_be_gone_is_counted_and_forgotten(
    store_harness: StoreHarness,
) -> None:
    """Invariant 7: as when nobody looked after a store for longer than its retention."""
    ledger = await store_harness.open(limit("whole", 10_000, per=LIFETIME), limit("day", 1_000, per=DAY))
    calls = Calls(store_harness, ledger)
    number = await calls.reserve(20)
    store_harness.clock.advance(ms=60 * DAY_MS)
    await keep_up(ledger, RETENTION_MS)
    await ledger.expire_due()
    assert await committed(ledger, "whole") == (20, 0)
    await keep_up(ledger, RETENTION_MS)
    assert await store_harness.rows("SELECT * FROM entry") == []
    assert await committed(ledger, "whole") == (20, 0)
    assert sum(row.cost for row in await ledger.spend("user", since_ms=0)) == 20
    assert await ledger.audit() == []
    with pytest.raises(ReservationForgotten):
        await ledger.settle(number, charge(1))
    await store_harness.close()


CHANGES = [
    "DELETE FROM entry",
    "DELETE FROM entry WHERE reserved_at_ms > 0",
    "UPDATE retention SET horizon_ms = 0",
    "DELETE FROM retention",
    "UPDATE entry SET cost = 0",
]


@pytest.mark.parametrize("change", CHANGES)
@claim
async def test_the_store_lets_nothing_go_but_entries_before_the_horizon(
    store_harness: StoreHarness, change: str
) -> None:
    """Invariant 14."""
    ledger = await store_harness.open()
    calls = Calls(store_harness, ledger)
    await calls.spend(10)
    store_harness.clock.advance(ms=60 * DAY_MS)
    await calls.spend(10)
    await keep_up(ledger, RETENTION_MS)
    before = await store_harness.rows("SELECT count(*) FROM entry"), await store_harness.rows(POSITIONS)
    with pytest.raises(Exception, match=r"only|never|kept|forward"):
        await store_harness.rows(change)
    assert (await store_harness.rows("SELECT count(*) FROM entry"), await store_harness.rows(POSITIONS)) == before
    await store_harness.close()


@claim
async def test_no_entry_goes_that_an_open_window_counts(store_harness: StoreHarness) -> None:
    """Whatever the config says; other processes may have other limits."""
    ledger = await store_harness.open(limit("long", 10_000, unit=Unit.TOKENS, per=LONG))
    calls = Calls(store_harness, ledger)
    await calls.spend(10)
    store_harness.clock.advance(ms=30 * DAY_MS)
    await calls.spend(10)
    await keep_up(ledger, HOUR_MS)
    assert await store_harness.rows("SELECT count(*) FROM entry") == [(2,)]
    assert await ledger.audit() == []
    await store_harness.close()


@claim
async def test_the_caretaker_works_until_nothing_is_left_and_stops_cleanly(store_harness: StoreHarness) -> None:
    ledger = await store_harness.open()
    await Calls(store_harness, ledger).spend(10)
    store_harness.clock.advance(ms=60 * DAY_MS)
    caretaker = Caretaker(ledger, retention_s=RETENTION_MS / 1_000, pause_s=0)
    caretaker.start()
    async with asyncio.timeout(10):
        while await store_harness.rows("SELECT 1 FROM entry"):
            await asyncio.sleep(0)
    await caretaker.stop()
    await store_harness.close()


@claim
async def test_the_caretaker_survives_a_store_that_is_away_and_ends_with_its_ledger(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await open_memory((Limit("l", Unit.REQUESTS, 1, LIFETIME),))
    errors: list[LedgerError | None] = [LedgerUnavailable("the store is away"), None]
    upkeep, is_back = ledger.upkeep, asyncio.Event()

    async def away_once(retention_ms: int | None) -> bool:
        if errors and (error := errors.pop(0)) is not None:
            raise error
        is_back.set()
        return await upkeep(retention_ms)

    monkeypatch.setattr(ledger, "upkeep", away_once)
    caretaker = Caretaker(ledger, retention_s=None, interval_s=0)
    caretaker.start()
    await asyncio.wait_for(is_back.wait(), 10)
    assert "upkeep_failed reason=the store is away" in caplog.text
    await ledger.close()
    assert caretaker._task is not None
    await asyncio.wait_for(caretaker._task, 10)
