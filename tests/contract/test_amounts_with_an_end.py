"""Amounts that were set for a subject until a time, on every engine."""

import asyncio

import pytest
from ledger_harness import (
    NOON_NS,
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

from spendfuse.core.decisions import Admitted, Shortfall
from spendfuse.core.errors import LedgerError
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.windows import Span
from spendfuse.ledger.store import Ledger

NOON_MS = NOON_NS // 10**6
HOUR_MS = 3_600_000
U1, U2 = {"user": "u1"}, {"user": "u2"}
FOR_U1 = '["u1"]'
PER_USER = limit("l", 100, each=("user",))
RATE = limit("rate", 2, unit=Unit.REQUESTS, per=Span(60_000), each=("user",))


async def _ends(ledger: Ledger, of: Limit = PER_USER) -> tuple[int, bool, int | None]:
    line = await line_of(ledger, of.name, FOR_U1)
    return line.amount, line.is_overridden, line.override_ends_at_ms


@contract
async def test_an_amount_goes_back_at_its_end_and_not_before_in_every_process(harness: Harness) -> None:
    one, two = await harness.open(PER_USER), await harness.open(PER_USER)
    await admitted(one, 1, 60, labels=U1)
    await one.set_amount("l", FOR_U1, 200, until_ms=NOON_MS + HOUR_MS)
    assert await _ends(two) == (200, True, NOON_MS + HOUR_MS)
    await admitted(two, 2, 100, labels=U1)
    harness.clock.advance(ms=HOUR_MS - 1)
    assert await one.expire_due() != ()  # the calls, not the amount
    await admitted(one, 3, 40, labels=U1)
    harness.clock.advance(ms=1)
    assert await two.expire_due() == ()
    for ledger in (one, two, await harness.open_without_limits()):
        assert await _ends(ledger) == (100, False, None)
    assert (await refused(one, 4, 1, labels=U1)).shortfall is Shortfall.SPENT
    assert (await refused(two, 4, 1, labels=U1)).shortfall is Shortfall.SPENT
    await admitted(one, 4, 100, labels=U2)


@contract
async def test_calls_in_flight_at_the_end_of_an_amount_still_settle_in_full(harness: Harness) -> None:
    """Invariants 3 and 7: the ceiling never falls below what is committed."""
    ledger = await harness.open(PER_USER)
    await ledger.set_amount("l", FOR_U1, 300, until_ms=NOON_MS + 1_000)
    await admitted(ledger, 1, 200, labels=U1)
    await admitted(ledger, 2, 90, labels=U1)
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    assert (await refused(ledger, 3, 1, labels=U1)).can_wait
    assert not await ledger.extend(rid(2), quote=quote(), cap=91, deadline_s=60)
    await ledger.settle(rid(1), charge(200))
    await ledger.settle(rid(2), charge(95))
    assert await committed(ledger, "l", FOR_U1) == (295, 0)


@contract
async def test_a_lowered_amount_that_ends_makes_room_for_who_waits(harness: Harness) -> None:
    ledger = await harness.open(PER_USER)
    await admitted(ledger, 1, 50, labels=U1)
    await ledger.set_amount("l", FOR_U1, 60, until_ms=NOON_MS + 1_000)
    asked = asyncio.ensure_future(ledger.reserve(demand(2, 50, labels=U1), wait_s=60))
    while not len(ledger._room):  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    assert isinstance(await asked, Admitted)


@contract
async def test_the_amount_of_a_rate_goes_back_at_its_end(harness: Harness) -> None:
    one, two = await harness.open(RATE), await harness.open(RATE)
    await admitted(two, 1, 1, labels=U1)
    await one.set_amount("rate", FOR_U1, 4, until_ms=NOON_MS + 10)
    await admitted(two, 2, 1, labels=U1)
    await admitted(two, 3, 1, labels=U1)
    assert await _ends(two, RATE) == (4, True, NOON_MS + 10)
    harness.clock.advance(ms=10)
    await one.expire_due()
    assert (await refused(two, 4, 1, labels=U1)).reasons[0].amount == 2
    assert await _ends(two, RATE) == (2, False, None)


@contract
async def test_the_end_of_an_amount_survives_reopening(harness: Harness) -> None:
    first = await harness.open(PER_USER)
    await first.set_amount("l", FOR_U1, 200, until_ms=NOON_MS + HOUR_MS)
    await admitted(first, 1, 10, labels=U1)
    await first.close()
    second = await harness.open(PER_USER)
    assert await _ends(second) == (200, True, NOON_MS + HOUR_MS)
    await second.close()
    harness.clock.advance(ms=HOUR_MS)
    third = await harness.open(limit("l", 120, each=("user",)))
    await third.expire_due()
    assert await _ends(third) == (120, False, None)
    await admitted(third, 2, 110, labels=U1)


@contract
async def test_a_later_set_replaces_the_end_of_an_amount(harness: Harness) -> None:
    ledger = await harness.open(PER_USER)
    await admitted(ledger, 1, 10, labels=U1)
    await ledger.set_amount("l", FOR_U1, 200, until_ms=NOON_MS + 1_000)
    await ledger.set_amount("l", FOR_U1, 300, until_ms=NOON_MS + 2_000)
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    assert await _ends(ledger) == (300, True, NOON_MS + 2_000)
    await ledger.set_amount("l", FOR_U1, 400)
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    assert await _ends(ledger) == (400, True, None)
    await ledger.set_amount("l", FOR_U1, 500, until_ms=NOON_MS + 3_000)
    await ledger.set_amount("l", FOR_U1, None)
    assert await _ends(ledger) == (100, False, None)


@contract
async def test_an_amount_set_and_ended_within_one_batch_is_replaced_by_what_came_last(harness: Harness) -> None:
    ledger = await harness.open(PER_USER)
    await admitted(ledger, 1, 10, labels=U1)
    await ledger.set_amount("l", FOR_U1, 200, until_ms=NOON_MS + 1_000)
    harness.clock.advance(ms=1_000)
    await asyncio.gather(
        ledger.expire_due(), ledger.set_amount("l", FOR_U1, 300, until_ms=NOON_MS + 2_000), ledger.expire_due()
    )
    assert await _ends(ledger) == (300, True, NOON_MS + 2_000)


@contract
async def test_amounts_that_end_together_go_back_each_to_their_limits(harness: Harness) -> None:
    limits = (PER_USER, limit("m", 70), RATE)
    ledger = await harness.open(*limits)
    for labels, number in ((U1, 1), (U2, 2)):
        await admitted(ledger, number, 10, labels=labels)
    for name, subject in (("l", FOR_U1), ("l", '["u2"]'), ("m", "[]"), ("rate", FOR_U1)):
        await ledger.set_amount(name, subject, 7, until_ms=NOON_MS + 1_000)
    await ledger.set_amount("rate", '["u2"]', 7, until_ms=NOON_MS + 1_001)
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    lines = {(line.limit_name, line.subject): line.amount for line in await ledger.balances()}
    assert lines == {
        ("l", FOR_U1): 100,
        ("l", '["u2"]'): 100,
        ("m", "[]"): 70,
        ("rate", FOR_U1): 2,
        ("rate", '["u2"]'): 7,
    }


@contract
async def test_an_amount_ends_while_its_limit_is_out_of_force(harness: Harness) -> None:
    ledger = await harness.open(PER_USER)
    await admitted(ledger, 1, 10, labels=U1)
    await ledger.set_amount("l", FOR_U1, 200, until_ms=NOON_MS + 1_000)
    await ledger.apply((limit("other", 1_000),))
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    await ledger.apply((PER_USER,))
    assert await _ends(ledger) == (100, False, None)


@contract
async def test_an_amount_that_ends_goes_back_to_the_limit_in_force_by_then(harness: Harness) -> None:
    ledger = await harness.open(PER_USER)
    await admitted(ledger, 1, 10, labels=U1)
    await ledger.set_amount("l", FOR_U1, 200, until_ms=NOON_MS + 1_000)
    await ledger.apply((limit("l", 50, each=("user",)),))
    assert await _ends(ledger) == (200, True, NOON_MS + 1_000)
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    assert await _ends(ledger) == (50, False, None)
    await refused(ledger, 2, 41, labels=U1)


@pytest.mark.parametrize("until_ms", [NOON_MS, NOON_MS - 1, 0])
@pytest.mark.parametrize("amount", [5, None])
@contract
async def test_an_end_that_is_over_is_an_error_and_changes_nothing(
    harness: Harness, until_ms: int, amount: int | None
) -> None:
    ledger = await harness.open(PER_USER)
    await admitted(ledger, 1, 10, labels=U1)
    await ledger.set_amount("l", FOR_U1, 200)
    with pytest.raises(LedgerError, match="over already"):
        await ledger.set_amount("l", FOR_U1, amount, until_ms=until_ms)
    assert await _ends(ledger) == (200, True, None)
