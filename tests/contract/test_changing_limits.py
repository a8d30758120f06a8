"""Limits that come, go and change under a store that is in use, on every engine."""

import pytest
from ledger_harness import (
    DAY,
    LIFETIME,
    MONTH,
    Harness,
    admitted,
    charge,
    committed,
    contract,
    demand,
    limit,
    line_of,
    quote,
    refused,
    rid,
)

from spendfuse.core.decisions import Shortfall
from spendfuse.core.errors import LedgerError, LimitsOutdated
from spendfuse.core.limits import Limit, Shadow, Unit
from spendfuse.core.windows import Span
from spendfuse.ledger.store import Ledger

U1 = '["u1"]'
HOUR = Span(3_600_000)


async def _spend_some(ledger: Ledger) -> None:
    """60 settled and 30 reserved by u1, 5 settled and then corrected to 7 by u2, a void by u1."""
    await admitted(ledger, 1, 60, labels={"user": "u1", "run": "r1"})
    await ledger.settle(rid(1), charge(60))
    await admitted(ledger, 2, 30, labels={"user": "u1", "run": "r2"})
    await admitted(ledger, 3, 20, labels={"user": "u2"})
    await ledger.void(rid(3))
    await ledger.settle(rid(3), charge(7))
    await admitted(ledger, 4, 20, labels={"user": "u1"})
    await ledger.void(rid(4))


@contract
async def test_a_raised_amount_admits_at_once_and_keeps_what_was_spent(harness: Harness) -> None:
    await _spend_some(await harness.open(limit("l", 120)))
    ledger = await harness.open(limit("l", 200))
    assert await committed(ledger, "l") == (67, 30)
    await admitted(ledger, 9, 103)


@contract
async def test_a_lowered_amount_refuses_while_calls_in_flight_still_settle(harness: Harness) -> None:
    """Invariant 3."""
    await _spend_some(await harness.open(limit("l", 120)))
    ledger = await harness.open(limit("l", 50))
    assert (await refused(ledger, 9, 1)).shortfall is Shortfall.SPENT
    await ledger.settle(rid(2), charge(40))
    assert await committed(ledger, "l") == (107, 0)


COMEBACKS = [
    limit("l", 100),
    limit("l", 100, per=DAY),
    limit("l", 100, per=LIFETIME),
    limit("l", 100, per=Span(60_000)),
    limit("l", 100, per=Span(1_000)),
    limit("l", 100, each=("user",)),
    limit("l", 100, each=("run",)),
    limit("l", 100, match={"user": frozenset({"u1"})}),
    limit("l", 100, match={"run": frozenset({"r1", "r2"})}),
    limit("l", 100, unit=Unit.TOKENS),
    limit("l", 100, unit=Unit.REQUESTS),
    limit("l", 100, unit=Unit.CONCURRENT, per=LIFETIME),
    limit("l", 10, each=("user",)),
    limit("l", 100, on_exceed=Shadow()),
]
U1_AFTERWARDS = [(67, 30)] * 5 + [(60, 30), (60, 0), (60, 30), (60, 30), (67, 30), (3, 1), (0, 1), (60, 30), (67, 30)]


@pytest.mark.parametrize(("back", "expected"), list(zip(COMEBACKS, U1_AFTERWARDS, strict=True)))
@contract
async def test_a_limit_that_comes_into_force_opens_at_what_was_spent(
    harness: Harness, back: Limit, expected: tuple[int, int]
) -> None:
    """Invariant 8."""
    await _spend_some(await harness.open(limit("other", 10_000)))
    ledger = await harness.open(back)
    subject = {(): "[]", ("user",): U1, ("run",): '["r1"]'}[back.each]
    assert await committed(ledger, "l", subject) == expected
    assert await ledger.audit() == []
    await ledger.settle(rid(2), charge(30))
    assert await ledger.audit() == []


@contract
async def test_a_limit_that_was_away_opens_at_what_was_spent_meanwhile(harness: Harness) -> None:
    """Invariant 8."""
    first = await harness.open(limit("l", 100))
    await admitted(first, 1, 10)
    second = await harness.open(limit("other", 100))
    await admitted(second, 2, 20)
    await second.settle(rid(1), charge(5))
    third = await harness.open(limit("l", 100))
    assert await committed(third, "l") == (5, 20)
    assert await third.balances("other") == []


@contract
async def test_a_window_that_begins_after_a_limit_opens_empty(harness: Harness) -> None:
    await _spend_some(await harness.open(limit("other", 10_000, per=LIFETIME)))
    ledger = await harness.open(limit("l", 100, per=DAY), limit("other", 10_000, per=LIFETIME))
    harness.clock.advance(ms=24 * 3_600_000)
    await admitted(ledger, 9, 100)
    await ledger.settle(rid(2), charge(30))
    assert await committed(ledger, "l") == (0, 100)


@contract
async def test_a_shadow_limit_that_becomes_enforced_has_at_least_what_is_committed(harness: Harness) -> None:
    shadow = await harness.open(limit("l", 100, on_exceed=Shadow()))
    await admitted(shadow, 1, 150)
    await admitted(shadow, 2, 50)
    ledger = await harness.open(limit("l", 100))
    assert (await refused(ledger, 3, 10)).can_wait
    await ledger.settle(rid(1), charge(150))
    assert await committed(ledger, "l") == (150, 50)
    again = await harness.open(limit("l", 100, on_exceed=Shadow()))
    await admitted(again, 3, 500)


@pytest.mark.parametrize(
    ("later", "room"),
    [
        (limit("l", 70, per=HOUR), 40),
        (limit("l", 500, per=HOUR), 40),
        (limit("l", 100, per=HOUR, on_exceed=Shadow()), 40),
        (limit("later", 1, per=HOUR), 940),
    ],
)
@contract
async def test_a_window_that_is_over_keeps_its_amount_for_calls_in_flight(
    harness: Harness, later: Limit, room: int
) -> None:
    """Invariants 3 and 9: what is applied or set afterwards is for the windows that follow."""
    ledger = await harness.open(limit("l", 100, per=HOUR), limit("ever", 1_000, per=LIFETIME))
    await admitted(ledger, 1, 60, deadline_s=86_400)
    harness.clock.advance(ms=3_600_000)
    await ledger.apply((later, limit("ever", 1_000, per=LIFETIME)))
    assert not await ledger.extend(rid(1), quote=quote(), cap=61 + room, deadline_s=60)
    assert await ledger.extend(rid(1), quote=quote(), cap=60 + room, deadline_s=60)
    entry = await ledger.settle(rid(1), charge(60 + room))
    assert entry.overrun_cost == 0
    assert await committed(ledger, "ever") == (60 + room, 0)


@contract
async def test_a_process_with_older_limits_ends_calls_but_admits_none(harness: Harness) -> None:
    old = await harness.open(limit("l", 100))
    for number in (1, 2, 3):
        await admitted(old, number, 10, deadline_s=60)
    new = await harness.open(limit("l", 100), limit("m", 100))
    with pytest.raises(LimitsOutdated):
        await old.reserve(demand(4, 10))
    await admitted(new, 4, 10)
    assert await old.extend(rid(3), quote=quote(), cap=20, deadline_s=60)
    await old.settle(rid(1), charge(8))
    await old.void(rid(2))
    harness.clock.advance(ms=60_000)
    assert len(await old.expire_due()) == 1
    assert await committed(new, "m") == (28, 10)
    same = await harness.open(limit("l", 100), limit("m", 100))
    await admitted(new, 5, 10)
    await admitted(same, 6, 10)


@contract
async def test_an_amount_set_for_a_subject_holds_for_every_process_until_it_is_reset(harness: Harness) -> None:
    limits = (limit("l", 100, each=("user",)),)
    one, two = await harness.open(*limits), await harness.open(*limits)
    u1, u2 = {"user": "u1"}, {"user": "u2"}
    await admitted(one, 1, 80, labels=u1)
    await (await harness.open_without_limits()).set_amount("l", U1, 200)
    await admitted(two, 2, 120, labels=u1)
    await refused(two, 3, 120, labels=u2)
    assert (await line_of(one, "l", U1)).is_overridden
    three = await harness.open(limit("l", 150, each=("user",)))
    assert (await line_of(three, "l", U1)).amount == 200
    await three.set_amount("l", U1, None)
    assert (await line_of(three, "l", U1)).amount == 150
    assert (await refused(three, 4, 1, labels=u1)).can_wait


@contract
async def test_an_amount_set_before_the_first_call_holds(harness: Harness) -> None:
    ledger = await harness.open(
        limit("l", 100, each=("user",)), limit("rate", 5, unit=Unit.REQUESTS, per=Span(60_000), each=("user",))
    )
    await ledger.set_amount("l", U1, 0)
    await ledger.set_amount("rate", '["u2"]', 1)
    assert (await refused(ledger, 1, 1, labels={"user": "u1"})).shortfall is Shortfall.SPENT
    await admitted(ledger, 2, 1, labels={"user": "u2"})
    assert (await refused(ledger, 3, 1, labels={"user": "u2"})).shortfall is Shortfall.RATE


@pytest.mark.parametrize("subject", ["u1", '["u1","u2"]', "[1]", '[ "u1" ]', "{}", "[]", "7", '"u"'])
@contract
async def test_an_amount_for_what_is_no_subject_is_an_error(harness: Harness, subject: str) -> None:
    ledger = await harness.open(limit("l", 100, each=("user",)))
    with pytest.raises(LedgerError, match="not one of its subjects"):
        await ledger.set_amount("l", subject, 5)
    with pytest.raises(LedgerError, match="no limit"):
        await ledger.set_amount("m", U1, 5)


@contract
async def test_a_process_without_limits_does_everything_but_reserve(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100, per=MONTH))
    await admitted(ledger, 1, 10)
    await admitted(ledger, 2, 10)
    command = await harness.open_without_limits()
    with pytest.raises(LedgerError, match="without limits"):
        await command.reserve(demand(3, 10))
    await command.settle(rid(1), charge(5))
    assert await committed(command, "l") == (5, 10)
    await command.close()
    assert await committed(ledger, "l") == (5, 10)


@contract
async def test_a_limit_says_nothing_about_calls_of_windows_that_were_over_before_it_was_in_force(
    harness: Harness,
) -> None:
    old = await harness.open(limit("l", 500))
    await admitted(old, 1, 100, labels={})
    await admitted(old, 2, 100, labels={})
    harness.clock.advance(ms=60_000)
    ledger = await harness.open(limit("l", 500), limit("minute", 110, per=Span(60_000)))
    assert await ledger.extend(rid(1), quote=quote(), cap=200, deadline_s=60)
    assert await committed(ledger, "minute") == (0, 0)
