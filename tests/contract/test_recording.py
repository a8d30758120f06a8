"""Calls that were served while the store was away, and are written down afterwards, on every engine."""

import asyncio

import pytest
from faulty_wire import Fault, FaultyWire
from ledger_harness import (
    ACME,
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
    line_of,
    refused,
    rid,
)
from postgres_harness import LEASE_S, rows

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Shortfall
from spendfuse.core.errors import ReservationEnded
from spendfuse.core.limits import Unit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Charge, EntryKind
from spendfuse.core.usage import NOTHING
from spendfuse.core.windows import Span
from spendfuse.ledger.postgres import open_postgres
from spendfuse.ledger.store import TargetOverrun

NOON_MS = NOON_NS // 10**6
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
HOUR = Span(HOUR_MS)


@contract
async def test_a_recorded_call_counts_in_every_unit_that_its_time_has(harness: Harness) -> None:
    ledger = await harness.open(
        limit("money", 1_000),
        limit("tokens", 1_000, unit=Unit.TOKENS, each=("user",)),
        limit("calls", 9, unit=Unit.REQUESTS, per=DAY),
        limit("parallel", 3, unit=Unit.CONCURRENT, per=LIFETIME),
        limit("rate", 3, unit=Unit.REQUESTS, per=Span(MINUTE_MS)),
    )
    entry = await ledger.record(demand(1, 100, input_tokens=10), charge(40, input_tokens=10), at_ms=NOON_MS)
    assert (entry.kind, entry.amounts, entry.held) == (
        EntryKind.SETTLED,
        Amounts(Nanos(50), 10, 40),
        Amounts(Nanos(110), 10, 100),
    )
    assert (entry.overrun_cost, entry.estimated) == (0, False)
    assert await committed(ledger, "money") == (50, 0)
    assert await committed(ledger, "tokens", '["u1"]') == (50, 0)
    assert await committed(ledger, "calls") == (1, 0)
    assert await committed(ledger, "parallel") == (0, 0)
    assert await committed(ledger, "rate") == (1, 0)
    (row,) = await ledger.spend("user", since_ms=0)
    assert (row.value, row.calls, row.cost, row.input_tokens, row.output_tokens) == ("u1", 1, 50, 10, 40)


@contract
async def test_recording_twice_counts_once(harness: Harness) -> None:
    """Invariant 6, also within one batch."""
    ledger = await harness.open(limit("l", 1_000), limit("calls", 9, unit=Unit.REQUESTS))
    first, second = await asyncio.gather(
        ledger.record(demand(1, 100), charge(40), at_ms=NOON_MS), ledger.record(demand(1, 50), charge(70), at_ms=0)
    )
    third = await (await harness.open_without_limits()).record(demand(1, 100), charge(80), at_ms=NOON_MS)
    assert first == second == third
    assert await ledger.settle(rid(1), charge(9)) == await ledger.void(rid(1)) == first
    with pytest.raises(ReservationEnded):
        await ledger.reserve(demand(1, 100))
    assert await committed(ledger, "l") == (40, 0)
    assert await committed(ledger, "calls") == (1, 0)


@contract
async def test_recording_a_call_whose_reservation_is_open_settles_it(harness: Harness) -> None:
    """Invariants 5 and 9: in the window and under the labels of the reservation, whatever the record says."""
    ledger = await harness.open(limit("l", 1_000, per=HOUR), limit("ever", 1_000, per=LIFETIME, each=("user",)))
    await admitted(ledger, 1, 100, deadline_s=2 * HOUR_MS)
    harness.clock.advance(ms=HOUR_MS)
    entry = await ledger.record(demand(1, 50, labels={"user": "u2"}), charge(60), at_ms=NOON_MS + HOUR_MS)
    assert (entry.kind, entry.amounts.cost, entry.held.cost) == (EntryKind.SETTLED, 60, 100)
    assert await committed(ledger, "l") == (0, 0)
    assert await committed(ledger, "ever", '["u1"]') == (60, 0)


@pytest.mark.parametrize("end", ["void", "expire"])
@contract
async def test_recording_a_call_whose_reservation_has_ended_charges_it_late(harness: Harness, end: str) -> None:
    """Invariants 5 and 7: its reserve may have been committed unseen, and voided as nobody had heard of it."""
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 100, deadline_s=1)
    harness.clock.advance(ms=1_000)
    await (ledger.void(rid(1)) if end == "void" else ledger.expire_due())
    first, second = await asyncio.gather(
        ledger.record(demand(1, 100), charge(60), at_ms=NOON_MS),
        ledger.record(demand(1, 100), charge(70), at_ms=NOON_MS),
    )
    assert first == second and first.kind is EntryKind.LATE
    assert await committed(ledger, "l") == (60, 0)


@contract
async def test_recording_a_call_that_was_settled_changes_nothing(harness: Harness) -> None:
    """Invariant 6."""
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 100)
    settled = await ledger.settle(rid(1), charge(60))
    assert await ledger.record(demand(1, 100), charge(70), at_ms=NOON_MS) == settled
    assert await committed(ledger, "l") == (60, 0)


@contract
async def test_a_recorded_call_that_has_no_room_is_counted_in_full(harness: Harness) -> None:
    """Invariants 3 and 7."""
    ledger = await harness.open(limit("l", 100), limit("u", 70, each=("user",)))
    await admitted(ledger, 1, 50)
    await ledger.settle(rid(1), charge(50))
    await admitted(ledger, 2, 20)
    entry = await ledger.record(demand(3, 500), charge(400), at_ms=NOON_MS)
    assert entry.overrun_cost == 0
    assert await committed(ledger, "l") == (450, 20)
    assert (await refused(ledger, 4, 1)).shortfall is Shortfall.SPENT
    await ledger.settle(rid(2), charge(20))
    assert await committed(ledger, "u", '["u1"]') == (470, 0)


@contract
async def test_a_recorded_charge_above_its_quote_is_an_overrun_of_its_target(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1_000))
    labels = {"user": "u1", "target": "openai/gpt-4o"}
    entry = await ledger.record(demand(1, 100, labels=labels), charge(250), at_ms=NOON_MS)
    assert entry.overrun_cost == 150
    assert await ledger.overruns() == [TargetOverrun("openai/gpt-4o", 250, NOON_MS)]


@contract
async def test_a_recorded_call_counts_in_the_window_of_its_time(harness: Harness) -> None:
    """Invariant 9."""
    ledger = await harness.open(
        limit("hour", 100, per=HOUR), limit("day", 100, per=DAY), limit("new", 100, per=HOUR, each=("user",))
    )
    await admitted(ledger, 1, 30, labels={})
    await ledger.settle(rid(1), charge(30))
    harness.clock.advance(ms=3 * HOUR_MS)
    await ledger.record(demand(2, 60), charge(60), at_ms=NOON_MS + MINUTE_MS)
    assert await committed(ledger, "hour") == (0, 0)
    assert await committed(ledger, "day") == (90, 0)
    await admitted(ledger, 3, 10)
    harness.clock.time_ns = NOON_NS + 2 * MINUTE_MS * 10**6
    assert await committed(ledger, "hour") == (90, 0)
    assert await committed(ledger, "new", '["u1"]') == (60, 0)
    (row,) = await ledger.spend("user", since_ms=NOON_MS + MINUTE_MS, until_ms=NOON_MS + MINUTE_MS + 1)
    assert (row.value, row.cost) == ("u1", 60)


@contract
async def test_recorded_calls_take_from_a_rate_at_their_time(harness: Harness) -> None:
    ledger = await harness.open(limit("rate", 3, unit=Unit.REQUESTS, per=Span(MINUTE_MS)))
    harness.clock.advance(ms=10 * MINUTE_MS)
    for number in (1, 2, 3):
        await ledger.record(demand(number, 10), charge(1), at_ms=NOON_MS)
    assert await committed(ledger, "rate") == (0, 0)
    for number in (4, 5):
        await ledger.record(demand(number, 10), charge(1), at_ms=NOON_MS + 10 * MINUTE_MS - 1_000)
    await admitted(ledger, 6, 10)
    assert (await refused(ledger, 7, 10)).shortfall is Shortfall.RATE
    await ledger.record(demand(7, 10), charge(1), at_ms=NOON_MS + 10 * MINUTE_MS)
    harness.clock.advance(ms=19_000)
    await admitted(ledger, 8, 10)


@contract
async def test_a_call_recorded_ahead_of_the_clock_is_one_of_now(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100, per=HOUR))
    await ledger.record(demand(1, 60), charge(60), at_ms=NOON_MS + 5 * HOUR_MS)
    assert await committed(ledger, "l") == (60, 0)
    assert await ledger.spend("user", since_ms=NOON_MS + 1) == []


@contract
async def test_a_recorded_call_counts_under_a_limit_applied_since_where_its_window_lasts(harness: Harness) -> None:
    """Invariant 8: as if the limit had opened at the fold with this call in it."""
    ledger = await harness.open(limit("old", 1_000))
    await admitted(ledger, 9, 30)
    await ledger.settle(rid(9), charge(30))
    harness.clock.advance(ms=2 * HOUR_MS)
    await ledger.apply(
        (limit("hour", 100, per=HOUR), limit("day", 100, per=DAY, each=("user",)), limit("ever", 100, per=LIFETIME))
    )
    await ledger.record(demand(1, 60), charge(60), at_ms=NOON_MS)
    assert await committed(ledger, "hour") == (0, 0)
    assert await committed(ledger, "day", '["u1"]') == (90, 0)
    assert await committed(ledger, "ever") == (90, 0)
    assert await ledger.balances("old") == []
    assert await ledger.audit() == []
    await ledger.apply((limit("old", 1_000),))
    assert await committed(ledger, "old") == (90, 0)


@contract
async def test_a_process_with_older_limits_records_under_those_in_force(harness: Harness) -> None:
    old = await harness.open(limit("l", 1_000))
    new = await harness.open(limit("m", 1_000))
    await old.record(demand(1, 60), charge(60), at_ms=NOON_MS)
    assert await committed(new, "m") == (60, 0)
    assert await new.balances("l") == []


@contract
async def test_the_subjects_of_a_recorded_call_are_new_no_more_and_count_for_no_key(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1_000, each=("user",)))
    for number, user in ((1, "u1"), (2, "u2")):
        asked = demand(number, 10, labels={"user": user, "key": "app"}, new_subjects=1)
        await ledger.record(asked, charge(1), at_ms=NOON_MS)
    for number, user in ((3, "u1"), (4, "u2"), (5, "u3")):
        await admitted(ledger, number, 10, labels={"user": user, "key": "app"}, new_subjects=1)
    await refused(ledger, 6, 10, labels={"user": "u4", "key": "app"}, new_subjects=1)


@contract
async def test_a_recorded_call_survives_reopening(harness: Harness) -> None:
    first = await harness.open(limit("l", 1_000))
    entry = await first.record(demand(1, 100), charge(40, estimated=True), at_ms=NOON_MS)
    assert entry.estimated
    await first.close()
    second = await harness.open(limit("l", 1_000))
    assert await second.record(demand(1, 100), charge(50), at_ms=NOON_MS) == entry
    assert await committed(second, "l") == (40, 0)


@contract
async def test_a_negative_charge_is_never_recorded(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1_000))
    with pytest.raises(ValueError, match="negative"):
        await ledger.record(demand(1, 100), Charge(NOTHING, Nanos(-1)), at_ms=NOON_MS)
    assert await ledger.spend("user", since_ms=0) == []
    assert await committed(ledger, "l") == (0, 0)


@claim
async def test_a_recorded_call_is_one_entry_and_no_reservation(store_harness: StoreHarness) -> None:
    """Invariants 5 and 14."""
    ledger = await store_harness.open(limit("l", 1_000))
    await ledger.record(demand(1, 100), charge(40), at_ms=NOON_MS - 7)
    store_harness.clock.advance(ms=5)
    assert await ledger.expire_due() == ()
    assert await store_harness.rows("SELECT reservation_id, reserved_at_ms, written_at_ms FROM entry") == [
        (1, NOON_MS - 7, NOON_MS)
    ]
    assert await store_harness.rows("SELECT 1 FROM reservation") == []
    await store_harness.close()


@pytest.mark.parametrize("fault", [Fault.LOSE_COMMIT, Fault.LOSE_ANSWER])
@claim
async def test_a_record_whose_commit_was_lost_counts_once(empty_postgres: str, fault: Fault) -> None:
    """Invariant 6."""
    wire = FaultyWire(empty_postgres)
    await wire.start()
    clock = FrozenClock(NOON_NS)
    ledger = await open_postgres(wire.dsn, limits=(limit("l", 1_000),), clock=clock, lease_s=LEASE_S)
    wire.fault = fault
    entry = await ledger.record(demand(1, 100, labels=ACME), charge(40), at_ms=NOON_MS)
    assert wire.fault is Fault.NONE
    assert entry.amounts.cost == 40
    assert await rows(empty_postgres, "SELECT count(*) FROM entry") == [(1,)]
    assert (await line_of(ledger, "l")).settled == 40
    await ledger.close()
    await wire.stop()
