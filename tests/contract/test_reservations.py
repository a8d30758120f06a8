"""How a reservation opens and ends, on every engine. `Invariant n` names those of docs/INVARIANTS.md."""

import asyncio

import pytest
from ledger_harness import (
    LIFETIME,
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

from spendfuse.core.decisions import Admitted, Fit, Refused, Shortfall
from spendfuse.core.errors import LedgerClosed, LedgerError, ReservationEnded, ReservationUnknown
from spendfuse.core.limits import Shadow, Unit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import EntryKind
from spendfuse.core.windows import Span

MINUTE = Span(60_000)

# A call of 10 input tokens and a cap of 90 that used 10 and 40: (settled, reserved) when open and after each end.
UNITS = [
    (Unit.USD, (0, 100), (50, 0), (0, 0), (100, 0)),
    (Unit.TOKENS, (0, 100), (50, 0), (0, 0), (100, 0)),
    (Unit.INPUT_TOKENS, (0, 10), (10, 0), (0, 0), (10, 0)),
    (Unit.OUTPUT_TOKENS, (0, 90), (40, 0), (0, 0), (90, 0)),
    (Unit.REQUESTS, (0, 1), (1, 0), (1, 0), (1, 0)),
    (Unit.CONCURRENT, (0, 1), (0, 0), (0, 0), (0, 0)),
]


@pytest.mark.parametrize(("unit", "opened", "settled", "voided", "expired"), UNITS, ids=[row[0] for row in UNITS])
@contract
async def test_each_unit_counts_a_reservation_and_its_end(
    harness: Harness,
    unit: Unit,
    opened: tuple[int, int],
    settled: tuple[int, int],
    voided: tuple[int, int],
    expired: tuple[int, int],
) -> None:
    subject = '["%s"]'
    ledger = await harness.open(limit("l", 1_000, unit=unit, per=LIFETIME, each=("user",)))
    for number, user in enumerate(("settles", "voids", "expires"), 1):
        await admitted(ledger, number, 90, input_tokens=10, labels={"user": user}, deadline_s=10 * number)
        assert await committed(ledger, "l", subject % user) == opened
    await ledger.settle(rid(1), charge(40, input_tokens=10))
    await ledger.void(rid(2))
    harness.clock.advance(ms=30_000)
    assert [entry.reservation_id for entry in await ledger.expire_due()] == [3]
    assert await committed(ledger, "l", subject % "settles") == settled
    assert await committed(ledger, "l", subject % "voids") == voided
    assert await committed(ledger, "l", subject % "expires") == expired


@contract
async def test_a_refusal_changes_no_balance_no_rate_and_writes_no_entry(harness: Harness) -> None:
    """Invariant 4."""
    ledger = await harness.open(
        limit("wide", 1_000),
        limit("rate", 2, unit=Unit.REQUESTS, per=MINUTE),
        limit("parallel", 5, unit=Unit.CONCURRENT, per=LIFETIME),
        limit("narrow", 50, each=("user",)),
    )
    before = await ledger.balances()
    outcome = await refused(ledger, 1, 100)
    assert outcome.shortfall is Shortfall.EXCEEDS
    assert [reason.limit.name for reason in outcome.reasons] == ["narrow"]
    assert await ledger.balances() == before
    assert await ledger.spend("user", since_ms=0) == []


@contract
async def test_concurrent_reserves_never_exceed_a_limit(harness: Harness) -> None:
    """Invariant 2."""
    ledger = await harness.open(limit("total", 1_000), limit("user", 350, each=("user",)))
    asked = [demand(n, 10, labels={"user": f"u{n % 3}"}) for n in range(1, 201)]
    outcomes = await asyncio.gather(*[ledger.reserve(one) for one in asked])
    assert sum(isinstance(one, Admitted) for one in outcomes) == 100
    assert await committed(ledger, "total") == (0, 1_000)


@contract
async def test_reserving_the_same_id_again_holds_once(harness: Harness) -> None:
    """Invariant 6."""
    ledger = await harness.open(limit("l", 1_000))
    first, second = await asyncio.gather(ledger.reserve(demand(1, 100)), ledger.reserve(demand(1, 100)))
    assert first == second == await ledger.reserve(demand(1, 70))
    assert await committed(ledger, "l") == (0, 100)


@contract
async def test_reserving_an_ended_id_is_an_error(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 100)
    await ledger.settle(rid(1), charge(60))
    with pytest.raises(ReservationEnded):
        await ledger.reserve(demand(1, 100))
    assert await committed(ledger, "l") == (60, 0)


@contract
async def test_settle_twice_charges_once(harness: Harness) -> None:
    """Invariants 5 and 6, also within one batch."""
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 100)
    first, second = await asyncio.gather(ledger.settle(rid(1), charge(60)), ledger.settle(rid(1), charge(70)))
    assert first == second == await ledger.settle(rid(1), charge(80))
    assert first.amounts == Amounts(first.amounts.cost, 0, 60)
    assert await committed(ledger, "l") == (60, 0)


@contract
async def test_the_first_end_of_a_reservation_stands(harness: Harness) -> None:
    """Invariant 5."""
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 100)
    settled = await ledger.settle(rid(1), charge(60))
    assert await ledger.void(rid(1)) == settled
    harness.clock.advance(ms=3_600_000)
    assert await ledger.expire_due() == ()
    assert await committed(ledger, "l") == (60, 0)


@pytest.mark.parametrize("verb", ["settle", "void"])
@contract
async def test_an_unknown_id_is_an_error(harness: Harness, verb: str) -> None:
    ledger = await harness.open(limit("l", 1_000))
    with pytest.raises(ReservationUnknown):
        await (ledger.settle(rid(9), charge(1)) if verb == "settle" else ledger.void(rid(9)))
    assert not await ledger.extend(rid(9), quote=quote(), cap=10, deadline_s=1)


@contract
async def test_money_spent_above_the_limit_is_recorded_as_overrun(harness: Harness) -> None:
    """Invariants 3 and 7."""
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 60)
    await admitted(ledger, 2, 40)
    entry = await ledger.settle(rid(1), charge(90))
    assert entry.overrun_cost == 30
    assert await committed(ledger, "l") == (90, 40)
    await ledger.void(rid(2))
    assert (await refused(ledger, 3, 11)).shortfall is Shortfall.SPENT
    await admitted(ledger, 4, 10)


@pytest.mark.parametrize("learned", [0, 30, 100, 250])
@pytest.mark.parametrize("end", ["expire", "void"])
@contract
async def test_a_charge_learned_after_the_end_becomes_one_late_entry(harness: Harness, end: str, learned: int) -> None:
    """Invariants 5, 7 and 14: also when it breaks the limit."""
    ledger = await harness.open(limit("l", 200), limit("calls", 9, unit=Unit.REQUESTS))
    await admitted(ledger, 1, 100, deadline_s=1)
    harness.clock.advance(ms=1_000)
    charged = 0 if end == "void" else 100
    closing = await ledger.void(rid(1)) if end == "void" else (await ledger.expire_due())[0]
    first, second = await asyncio.gather(ledger.settle(rid(1), charge(learned)), ledger.settle(rid(1), charge(1)))
    assert first == second
    assert first.kind is EntryKind.LATE
    assert first.amounts.cost == learned - charged
    assert first.overrun_cost == max(0, learned - 100)
    assert await ledger.void(rid(1)) == closing
    assert await committed(ledger, "l") == (learned, 0)
    assert await committed(ledger, "calls") == (1, 0)


@contract
async def test_an_expired_call_is_charged_at_its_quote_and_marked_estimated(harness: Harness) -> None:
    """Invariant 12: at the deadline, not before."""
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 90, input_tokens=10, deadline_s=5)
    harness.clock.advance(ms=4_999)
    assert await ledger.expire_due() == ()
    harness.clock.advance(ms=1)
    (entry,) = await ledger.expire_due()
    assert (entry.kind, entry.estimated, entry.amounts, entry.overrun_cost) == (EntryKind.EXPIRED, True, entry.held, 0)
    (row,) = await ledger.spend("user", since_ms=0)
    assert (row.cost, row.estimated_cost) == (100, 100)


@contract
async def test_extending_raises_all_balances_or_none(harness: Harness) -> None:
    """Invariant 4."""
    ledger = await harness.open(limit("wide", 1_000), limit("narrow", 300), limit("shadow", 50, on_exceed=Shadow()))
    await admitted(ledger, 1, 100)
    await admitted(ledger, 2, 100)
    assert not await ledger.extend(rid(1), quote=quote(), cap=201, deadline_s=60)
    assert await committed(ledger, "wide") == (0, 200)
    for _ in range(2):
        assert await ledger.extend(rid(1), quote=quote(), cap=200, deadline_s=60)
        assert await committed(ledger, "narrow") == (0, 300)
    assert await committed(ledger, "shadow") == (0, 300)
    entry = await ledger.settle(rid(1), charge(150))
    assert entry.held == quote().at(200)
    assert await committed(ledger, "wide") == (150, 100)


@contract
async def test_extending_moves_the_deadline_and_never_lowers(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 100, deadline_s=10)
    assert await ledger.extend(rid(1), quote=quote(), cap=50, deadline_s=100)
    assert await ledger.reserve(demand(1, 1)) == Admitted(100, quote().at(100))
    harness.clock.advance(ms=99_999)
    assert await ledger.expire_due() == ()
    harness.clock.advance(ms=1)
    assert len(await ledger.expire_due()) == 1
    assert not await ledger.extend(rid(1), quote=quote(), cap=200, deadline_s=100)


@contract
async def test_a_shadow_limit_counts_and_reports_but_never_refuses(harness: Harness) -> None:
    ledger = await harness.open(limit("shadow", 100, on_exceed=Shadow()), limit("real", 1_000))
    assert (await admitted(ledger, 1, 100)).would_refuse == ()
    outcome = await admitted(ledger, 2, 60)
    assert [reason.limit.name for reason in outcome.would_refuse] == []  # busy only: it could have waited
    await ledger.settle(rid(1), charge(100))
    assert [reason.limit.name for reason in (await admitted(ledger, 3, 60)).would_refuse] == ["shadow"]
    assert await committed(ledger, "shadow") == (100, 120)


@contract
async def test_the_cap_is_lowered_to_what_is_left(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 70)
    await ledger.settle(rid(1), charge(70))
    outcome = await admitted(ledger, 2, 50, useful=10)
    assert (outcome.cap, await committed(ledger, "l")) == (30, (70, 30))
    assert isinstance(await ledger.reserve(demand(3, 50, useful=10, fit=Fit.WHOLE)), Refused)


@contract
async def test_match_and_each_choose_what_a_call_counts_under(harness: Harness) -> None:
    ledger = await harness.open(
        limit("search", 1_000, match={"feature": frozenset({"search"})}),
        limit("pair", 1_000, each=("organization", "user")),
    )
    await admitted(ledger, 1, 10, labels={"organization": "acme", "user": "u1", "feature": "search"})
    await admitted(ledger, 2, 20, labels={"organization": "acme", "feature": "chat"})
    assert await committed(ledger, "search") == (0, 10)
    assert await committed(ledger, "pair", '["acme","u1"]') == (0, 10)
    assert await committed(ledger, "pair", '["acme",""]') == (0, 20)


@contract
async def test_negative_amounts_never_reach_the_store(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 10)
    with pytest.raises(ValueError, match="negative"):
        await ledger.settle(rid(1), type(charge(0))(charge(0).usage, -1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        await ledger.set_amount("l", "[]", -1, until_ms=1 << 50)
    with pytest.raises(ValueError, match="negative"):
        await ledger.reserve(demand(2, 10, input_tokens=-5))
    with pytest.raises(ValueError, match="negative"):
        await ledger.settle(rid(1), charge(-1))
    assert await committed(ledger, "l") == (0, 10)


# The model has no column width: it takes any amount.
@pytest.mark.parametrize("harness", ["sqlite", "postgres"], indirect=True)
@contract
async def test_a_poisoned_operation_fails_alone(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1_000))
    await admitted(ledger, 1, 10)
    await admitted(ledger, 2, 10)
    huge = charge(AMOUNT_MAX)
    outcomes = await asyncio.gather(
        ledger.settle(rid(1), huge),
        ledger.settle(rid(2), charge(7)),
        ledger.reserve(demand(3, 20)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], LedgerError)
    assert not any(isinstance(one, BaseException) for one in outcomes[1:])
    assert await committed(ledger, "l") == (7, 30)


@contract
async def test_a_closed_ledger_refuses_every_verb(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1_000))
    await ledger.close()
    for verb in (ledger.reserve(demand(1, 10)), ledger.void(rid(1)), ledger.balances(), ledger.audit(), ledger.keys()):
        with pytest.raises(LedgerClosed):
            await verb


@contract
async def test_limits_show_their_arithmetic(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100, each=("user",)))
    await admitted(ledger, 1, 30)
    await ledger.settle(rid(1), charge(20))
    await admitted(ledger, 2, 50)
    (reason,) = (await refused(ledger, 3, 40)).reasons
    assert (reason.amount, reason.settled, reason.reserved, reason.need) == (100, 20, 50, 40)
    line = await line_of(ledger, "l", '["u1"]')
    assert (line.amount, line.settled, line.reserved, line.resets_at_ms) == (100, 20, 50, reason.resets_at_ms)
