"""Limits that a process applies while it runs, on every engine."""

import asyncio

import pytest
from faulty_wire import Fault, FaultyWire
from ledger_harness import (
    DAY,
    LIFETIME,
    NOON_NS,
    Harness,
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
from postgres_harness import LEASE_S

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Admitted, Refused, Shortfall
from spendfuse.core.errors import LedgerError, LedgerUnavailable, LimitsOutdated
from spendfuse.core.limits import Limit, Shadow, Unit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.windows import Span
from spendfuse.ledger import verbs
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.operations import ApplyLimits, Operation, Outcome, Reserve, Settle
from spendfuse.ledger.postgres import open_postgres
from spendfuse.ledger.store import Ledger

# The model has no column width, so nothing fails in it.
DATABASES = pytest.mark.parametrize("harness", ["sqlite", "postgres"], indirect=True)
RATE = limit("rate", 3, unit=Unit.REQUESTS, per=Span(60_000))


async def _run(ledger: Ledger, *operations: Operation) -> list[Outcome]:
    """One batch of exactly these."""
    return list(await ledger._engine.run(operations))  # type: ignore[attr-defined]


def _apply(*limits: Limit) -> ApplyLimits:
    return ApplyLimits(AppliedLimits(limits))


@contract
async def test_a_limit_applied_at_run_time_opens_at_what_was_spent(harness: Harness) -> None:
    """Invariant 8."""
    ledger = await harness.open(limit("other", 10_000))
    await admitted(ledger, 1, 60, labels={"user": "u1"})
    await ledger.settle(rid(1), charge(60))
    await admitted(ledger, 2, 30, labels={"user": "u1"})
    await ledger.apply((limit("l", 100, each=("user",)), limit("day", 100, per=DAY)))
    assert await committed(ledger, "l", '["u1"]') == (60, 30)
    assert await committed(ledger, "day") == (60, 30)
    assert await ledger.balances("other") == []
    assert (await refused(ledger, 3, 11, labels={"user": "u1"})).can_wait
    await ledger.settle(rid(2), charge(30))
    assert (await refused(ledger, 3, 11, labels={"user": "u1"})).shortfall is Shortfall.SPENT
    await admitted(ledger, 3, 10, labels={"user": "u1"})


@contract
async def test_applying_another_amount_keeps_balances_and_rates(harness: Harness) -> None:
    """Invariant 3: what is committed stays, whatever the amount is."""
    ledger = await harness.open(limit("l", 100), RATE)
    await admitted(ledger, 1, 50)
    await ledger.settle(rid(1), charge(50))
    await admitted(ledger, 2, 40)
    await ledger.apply((limit("l", 60), RATE))
    assert await committed(ledger, "l") == (50, 40)
    assert (await line_of(ledger, "l")).amount == 60
    assert (await line_of(ledger, "rate")).settled == 2
    assert (await refused(ledger, 3, 1)).can_wait
    await ledger.apply((limit("l", 200), RATE))
    await admitted(ledger, 3, 110)
    assert (await refused(ledger, 4, 1)).shortfall is Shortfall.RATE


@contract
async def test_applying_a_limit_in_shadow_and_back_counts_on(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 90)
    await ledger.apply((limit("l", 100, on_exceed=Shadow()),))
    await admitted(ledger, 2, 90)
    await ledger.apply((limit("l", 100),))
    assert (await refused(ledger, 3, 1)).can_wait
    assert await committed(ledger, "l") == (0, 180)


@contract
async def test_a_limit_that_was_renamed_or_edited_at_run_time_opens_at_what_was_spent(harness: Harness) -> None:
    """Invariant 8: name, unit, period and labels make a limit another one; an edit gives nobody his money again."""
    ledger = await harness.open(limit("old", 100))
    await admitted(ledger, 1, 60, labels={"user": "u1"})
    await ledger.settle(rid(1), charge(50))
    await admitted(ledger, 2, 40, labels={"user": "u1"})
    for edited, subject in (
        (limit("new", 100), "[]"),
        (limit("new", 100, per=LIFETIME), "[]"),
        (limit("new", 100, unit=Unit.TOKENS), "[]"),
        (limit("new", 100, each=("user",)), '["u1"]'),
        (limit("new", 100, match={"user": frozenset({"u1"})}), "[]"),
    ):
        await ledger.apply((edited,))
        assert await committed(ledger, "new", subject) == (50, 40)
        assert (await refused(ledger, 3, 11, labels={"user": "u1"})).can_wait


@contract
async def test_a_limit_that_was_removed_at_run_time_ends_its_calls_without_a_trace(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100), limit("parallel", 2, unit=Unit.CONCURRENT, per=LIFETIME))
    for number in (1, 2):
        await admitted(ledger, number, 40)
    await ledger.apply(())
    await admitted(ledger, 3, 5_000)
    await ledger.settle(rid(1), charge(30))
    await ledger.apply((limit("l", 10_000), limit("parallel", 3, unit=Unit.CONCURRENT, per=LIFETIME)))
    assert await committed(ledger, "l") == (30, 5_040)
    assert await committed(ledger, "parallel") == (0, 2)


@contract
async def test_another_process_is_outdated_until_it_applies_too(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 2: only the newest limits admit."""
    monkeypatch.setattr(verbs, "RELOAD_WAIT_S", 0.0)
    one, two = await harness.open(limit("l", 100)), await harness.open(limit("l", 100))
    await admitted(two, 1, 10)
    await one.apply((limit("l", 50),))
    with pytest.raises(LimitsOutdated):
        await two.reserve(demand(2, 10))
    await two.settle(rid(1), charge(5))
    await admitted(one, 2, 10)
    await two.apply((limit("l", 50),))
    await admitted(two, 3, 10)
    await admitted(one, 4, 10)
    assert await committed(one, "l") == (5, 30)


@contract
async def test_a_reserve_that_meets_newer_limits_waits_for_its_process_and_then_succeeds(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "RELOAD_WAIT_S", 60.0)
    one, two = await harness.open(limit("l", 10)), await harness.open(limit("l", 10))
    await one.apply((limit("l", 100),))
    met = asyncio.Event()
    wait = two._may_be_up_to_date  # type: ignore[attr-defined]

    async def may_be_up_to_date(applied: asyncio.Event) -> bool:
        met.set()
        return await wait(applied)

    two._may_be_up_to_date = may_be_up_to_date  # type: ignore[attr-defined]
    asked = asyncio.ensure_future(two.reserve(demand(1, 60)))
    await met.wait()
    assert not asked.done()
    await two.apply((limit("l", 100),))
    assert isinstance(await asked, Admitted)


@contract
async def test_a_reserve_that_meets_newer_limits_succeeds_once_its_own_rule_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "RELOAD_WAIT_S", 60.0)
    one, two = await harness.open(limit("l", 10)), await harness.open(limit("l", 10))
    await one.apply((limit("l", 100),))
    asked = asyncio.ensure_future(two.reserve(demand(1, 5)))
    while two._outdated_since_s is None:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    await one.apply((limit("l", 10),))
    assert isinstance(await asked, Admitted)


@contract
async def test_a_call_that_waits_for_room_is_decided_by_the_limits_applied_meanwhile(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 90)
    waits = [asyncio.ensure_future(ledger.reserve(demand(number, 50), wait_s=60)) for number in (2, 3)]
    while len(ledger._room) < 2:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    await ledger.apply((limit("m", 170),))
    assert isinstance(await waits[0], Admitted)
    await ledger.apply((limit("m", 40),))
    outcome = await waits[1]
    assert isinstance(outcome, Refused) and outcome.shortfall is Shortfall.EXCEEDS


@contract
async def test_each_reserve_of_a_batch_is_decided_by_the_limits_at_its_place(harness: Harness) -> None:
    """Invariants 2 and 8: a limit opens at what was reserved before it in the same batch."""
    ledger = await harness.open(limit("old", 100))
    labels = {"user": "u1"}
    outcomes = await _run(
        ledger,
        Reserve(demand(1, 80, labels=labels)),
        Settle(rid(1), charge(30)),
        Reserve(demand(2, 60, labels=labels)),
        _apply(limit("new", 100, each=("user",))),
        Reserve(demand(3, 11, labels=labels)),
        Reserve(demand(4, 10, labels=labels)),
        _apply(limit("old", 120)),
        Reserve(demand(5, 20, labels=labels)),
        Settle(rid(2), charge(60)),
    )
    assert [type(one) for one in outcomes if isinstance(one, Admitted | Refused)] == [
        Admitted,
        Admitted,
        Refused,
        Admitted,
        Admitted,
    ]
    assert await committed(ledger, "old") == (90, 30)
    assert await ledger.balances("new") == []


@contract
async def test_an_amount_set_for_a_subject_beats_every_limit_that_is_applied(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100, each=("user",)))
    await ledger.set_amount("l", '["u1"]', 20)
    await ledger.apply((limit("l", 200, each=("user",)),))
    await refused(ledger, 1, 21, labels={"user": "u1"})
    await admitted(ledger, 1, 21, labels={"user": "u2"})
    await ledger.apply(())
    await ledger.apply((limit("l", 300, each=("user",)),))
    await refused(ledger, 2, 21, labels={"user": "u1"})
    await ledger.set_amount("l", '["u1"]', None)
    await admitted(ledger, 2, 300, labels={"user": "u1"})


@contract
async def test_a_process_without_limits_applies_none(harness: Harness) -> None:
    ledger, command = await harness.open(limit("l", 100)), await harness.open_without_limits()
    with pytest.raises(LedgerError, match="without limits"):
        await command.apply((limit("m", 1),))
    await admitted(ledger, 1, 100)


@DATABASES
@contract
async def test_a_failed_batch_leaves_the_old_limits(harness: Harness) -> None:
    """Neither the store nor the process has the new ones, nor the reserves that they admitted."""
    ledger = await harness.open(limit("l", 100))
    other = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 10)
    with pytest.raises(Exception):  # noqa: B017 - whatever the database says of too large a number
        await _run(
            ledger,
            _apply(limit("m", 5_000)),
            Reserve(demand(2, 500)),
            Settle(rid(1), charge(AMOUNT_MAX)),
        )
    assert [line.limit_name for line in await ledger.balances()] == ["l"]
    await refused(ledger, 2, 500)
    await admitted(ledger, 3, 20)
    await admitted(other, 4, 20)
    assert await committed(ledger, "l") == (0, 50)


@DATABASES
@contract
async def test_limits_that_were_applied_outlive_a_batch_that_fails(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 10)
    await ledger.apply((limit("l", 500),))
    with pytest.raises(Exception):  # noqa: B017 - whatever the database says of too large a number
        await _run(ledger, Reserve(demand(2, 10)), Settle(rid(1), charge(AMOUNT_MAX)))
    await admitted(ledger, 2, 400)


@DATABASES
@contract
async def test_limits_that_come_with_a_poisoned_operation_are_applied_alone(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 10)
    await admitted(ledger, 3, 10)
    outcomes = await asyncio.gather(
        ledger.apply((limit("l", 1_000),)),
        ledger.settle(rid(1), charge(AMOUNT_MAX)),
        ledger.reserve(demand(2, 500)),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes] == [type(None), LedgerError, Admitted]
    assert await committed(ledger, "l") == (0, 520)


@DATABASES
@contract
async def test_an_owner_that_lost_its_lease_applies_limits_and_admits_by_them(harness: Harness) -> None:
    """The batch is begun again under another owner, by the old limits at first."""
    one, two = await harness.open(limit("l", 100)), await harness.open(limit("l", 100))
    await admitted(one, 1, 100)
    lost = one.owner_id
    harness.kill(one)
    assert len(await two.expire_due()) == 1
    applied, outcome = await asyncio.gather(one.apply((limit("l", 150),)), one.reserve(demand(2, 50)))
    assert applied is None and isinstance(outcome, Admitted)
    assert one.owner_id != lost
    assert await committed(one, "l") == (100, 50)


@pytest.mark.parametrize("fault", [Fault.LOSE_COMMIT, Fault.LOSE_ANSWER])
@claim
async def test_limits_whose_commit_was_lost_are_applied_again(empty_postgres: str, fault: Fault) -> None:
    wire = FaultyWire(empty_postgres)
    await wire.start()
    limits, clock = (limit("l", 100),), FrozenClock(NOON_NS)
    ledger = await open_postgres(wire.dsn, limits=limits, clock=clock, lease_s=LEASE_S)
    await admitted(ledger, 1, 60)
    wire.fault = fault
    applied, outcome = await asyncio.gather(ledger.apply((limit("l", 200),)), ledger.reserve(demand(2, 140)))
    assert wire.fault is Fault.NONE
    assert applied is None and isinstance(outcome, Admitted)
    assert await committed(ledger, "l") == (0, 200)
    assert await ledger.audit() == []
    await ledger.close()
    await wire.stop()


@claim
async def test_a_process_that_never_learned_of_its_commit_is_outdated_until_it_applies_again(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed: the store has the new limits, the process the old ones."""
    monkeypatch.setattr(verbs, "RELOAD_WAIT_S", 0.0)
    wire = FaultyWire(empty_postgres)
    await wire.start()
    limits, clock = (limit("l", 100),), FrozenClock(NOON_NS)
    ledger = await open_postgres(wire.dsn, limits=limits, clock=clock, lease_s=LEASE_S)
    wire.fault = Fault.LOSE_ANSWER_AND_LEAVE
    with pytest.raises(LedgerUnavailable):
        await ledger.apply((limit("l", 50),))
    wire.resume()
    with pytest.raises(LimitsOutdated):
        await ledger.reserve(demand(1, 10))
    await ledger.apply((limit("l", 50),))
    await refused(ledger, 1, 51)
    await admitted(ledger, 1, 50)
    await ledger.close()
    await wire.stop()
