"""Windows, rates and concurrency, on every engine."""

import pytest
from ledger_harness import (
    DAY,
    LIFETIME,
    Harness,
    admitted,
    charge,
    committed,
    contract,
    limit,
    line_of,
    quote,
    refused,
    rid,
)

from spendfuse.core.decisions import Shortfall
from spendfuse.core.limits import Shadow, Unit
from spendfuse.core.windows import Calendar, CalendarUnit, Period, Span

HOUR_MS = 3_600_000
PERIODS = [(DAY, 12 * HOUR_MS), (Calendar(CalendarUnit.WEEK), 36 * HOUR_MS), (Span(HOUR_MS), HOUR_MS)]
MINUTE = Span(60_000)


@pytest.mark.parametrize(("period", "until_next_ms"), PERIODS, ids=["day", "week", "hour"])
@contract
async def test_a_call_in_flight_over_a_rollover_settles_where_it_was_reserved(
    harness: Harness, period: Period, until_next_ms: int
) -> None:
    """Invariant 9."""
    ledger = await harness.open(limit("l", 100, per=period), limit("ever", 1_000, per=LIFETIME))
    await admitted(ledger, 1, 90)
    await refused(ledger, 2, 50)
    harness.clock.advance(ms=until_next_ms)
    assert await committed(ledger, "l") == (0, 0)
    await admitted(ledger, 2, 50)
    await ledger.settle(rid(1), charge(95))
    assert await committed(ledger, "l") == (0, 50)
    assert await committed(ledger, "ever") == (95, 50)
    await ledger.settle(rid(2), charge(20))
    assert await committed(ledger, "l") == (20, 0)


@contract
async def test_every_end_over_a_rollover_counts_in_the_window_of_its_reservation(harness: Harness) -> None:
    """Invariant 9."""
    ledger = await harness.open(limit("l", 500, per=Span(HOUR_MS)))
    for number in (1, 2, 3, 4):
        await admitted(ledger, number, 100, deadline_s=3_600)
    harness.clock.advance(ms=HOUR_MS)
    assert await ledger.extend(rid(1), quote=quote(), cap=200, deadline_s=60)
    assert not await ledger.extend(rid(2), quote=quote(), cap=101, deadline_s=60)
    await ledger.settle(rid(1), charge(190))
    await ledger.void(rid(2))
    assert len(await ledger.expire_due()) == 2
    await ledger.settle(rid(3), charge(30))
    assert await committed(ledger, "l") == (0, 0)
    await admitted(ledger, 5, 500)
    harness.clock.advance(ms=-HOUR_MS)
    assert await committed(ledger, "l") == (320, 0)


@contract
async def test_a_late_charge_counts_in_the_window_of_its_reservation(harness: Harness) -> None:
    """Invariants 7 and 9."""
    ledger = await harness.open(limit("l", 100, per=DAY))
    await admitted(ledger, 1, 90, deadline_s=1)
    harness.clock.advance(ms=13 * HOUR_MS)
    await ledger.expire_due()
    await ledger.settle(rid(1), charge(10))
    assert await committed(ledger, "l") == (0, 0)
    await admitted(ledger, 2, 100)


@contract
async def test_a_rate_lets_a_burst_pass_and_then_refills_smoothly(harness: Harness) -> None:
    ledger = await harness.open(limit("rate", 3, unit=Unit.REQUESTS, per=MINUTE))
    for number in (1, 2, 3):
        await admitted(ledger, number, 10)
    assert (await line_of(ledger, "rate")).settled == 3
    outcome = await refused(ledger, 4, 10, wait_s=60)
    assert outcome.shortfall is Shortfall.RATE
    assert outcome.reasons[0].retry_at_ms == harness.clock.now_ns() // 1_000_000 + 20_000
    harness.clock.advance(ms=19_999)
    await refused(ledger, 4, 10)
    harness.clock.advance(ms=1)
    await admitted(ledger, 4, 10)
    await refused(ledger, 5, 10)


@contract
async def test_a_request_is_never_given_back(harness: Harness) -> None:
    ledger = await harness.open(
        limit("rate", 1, unit=Unit.REQUESTS, per=MINUTE, each=("user",)), limit("day", 1, unit=Unit.REQUESTS, per=DAY)
    )
    await admitted(ledger, 1, 10)
    await ledger.void(rid(1))
    assert {reason.limit.name for reason in (await refused(ledger, 2, 10)).reasons} == {"rate", "day"}


@contract
async def test_a_balance_that_refuses_takes_nothing_from_a_rate_and_the_other_way_round(harness: Harness) -> None:
    """Invariant 4."""
    ledger = await harness.open(limit("money", 100), limit("rate", 2, unit=Unit.REQUESTS, per=MINUTE))
    await refused(ledger, 1, 101)
    await admitted(ledger, 2, 10)
    await admitted(ledger, 3, 10)
    await refused(ledger, 4, 10)
    assert await committed(ledger, "money") == (0, 20)


@contract
async def test_a_shadow_rate_reports_and_refuses_nothing(harness: Harness) -> None:
    ledger = await harness.open(limit("rate", 1, unit=Unit.REQUESTS, per=MINUTE, on_exceed=Shadow()))
    assert (await admitted(ledger, 1, 10)).would_refuse == ()
    for number in range(2, 6):
        assert [one.limit.name for one in (await admitted(ledger, number, 10)).would_refuse] == ["rate"]
    harness.clock.advance(ms=60_000)
    assert (await admitted(ledger, 9, 10)).would_refuse == ()


@contract
async def test_concurrency_is_taken_and_given_back_by_every_end(harness: Harness) -> None:
    ledger = await harness.open(limit("parallel", 3, unit=Unit.CONCURRENT, per=LIFETIME, each=("user",)))
    for number in (1, 2, 3):
        await admitted(ledger, number, 10, deadline_s=number)
    outcome = await refused(ledger, 4, 10, wait_s=60)
    assert outcome.shortfall is Shortfall.RATE
    await admitted(ledger, 5, 10, labels={"user": "other"})
    await ledger.settle(rid(3), charge(1))
    await ledger.void(rid(2))
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    for number in (6, 7, 8):
        await admitted(ledger, number, 10)
    await refused(ledger, 9, 10)


@contract
async def test_idle_rates_are_forgotten_without_a_trace(harness: Harness) -> None:
    ledger = await harness.open(limit("loop", 2, unit=Unit.REQUESTS, per=MINUTE, each=("fingerprint",)))
    for number in range(1, 4):
        await admitted(ledger, number, 1, labels={"fingerprint": f"f{number}"})
    harness.clock.advance(ms=90_000)
    await admitted(ledger, 9, 1, labels={"fingerprint": "f1"})
    await ledger.expire_due()
    assert [line.subject for line in await ledger.balances("loop")] == ['["f1"]']
    await admitted(ledger, 10, 1, labels={"fingerprint": "f1"})
    await refused(ledger, 11, 1, labels={"fingerprint": "f1"})
