"""Properties of `decide`, the one rule of admission."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spendfuse.core.decisions import (
    Admitted,
    Balance,
    Fit,
    RateState,
    Reason,
    Refused,
    Shortfall,
    decide,
)
from spendfuse.core.limits import Limit, Shadow, Unit
from spendfuse.core.quotes import Amounts, CapRange, Quote
from spendfuse.core.windows import Lifetime, Span

NOW_NS = 10**18
CONSUMABLE = [Unit.USD, Unit.TOKENS, Unit.INPUT_TOKENS, Unit.OUTPUT_TOKENS]

amounts = st.integers(0, 3_000)
quotes = st.builds(
    Quote,
    input_tokens=st.integers(0, 300),
    fixed_picos=st.integers(0, 300_000),
    output_picos=st.integers(0, 3_000),
    choices=st.integers(1, 4),
)


@st.composite
def cap_ranges(draw: st.DrawFn) -> CapRange:
    useful, *others = sorted(draw(st.lists(st.integers(0, 400), min_size=3, max_size=3)))
    modest, wanted = others
    return CapRange(wanted, useful, draw(st.sampled_from([None, modest])))


@st.composite
def balances(draw: st.DrawFn) -> Balance:
    limit = Limit(
        "l",
        draw(st.sampled_from(list(Unit))),
        0,
        Lifetime(),
        on_exceed=draw(st.sampled_from([Limit("", Unit.USD, 0, Lifetime()).on_exceed, Shadow()])),
        fit=draw(st.booleans()),
    )
    return Balance(limit, "[]", draw(amounts), draw(amounts), draw(amounts), None)


def rate(amount: int, *, used: int = 0, shadow: bool = False) -> RateState:
    limit = Limit("r", Unit.REQUESTS, amount, Span(1_000))
    limit = replace(limit, on_exceed=Shadow()) if shadow else limit
    return RateState(limit, "[]", amount, NOW_NS + used * (10**9 // max(1, amount)))


def ask(
    quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance], rates: list[RateState] | None = None
) -> Admitted | Refused:
    return decide(quote=quote, caps=caps, fit=fit, balances=touched, rates=rates or [], now_ns=NOW_NS)


def fits(held: Amounts, touched: list[Balance]) -> bool:
    return all(held.of(one.limit.unit) <= one.free for one in touched if one.limit.is_enforced)


def everything(test: Callable[..., None]) -> Callable[..., None]:
    """Run a property over random demands and balances."""
    demands = given(quotes, cap_ranges(), st.sampled_from(Fit), st.lists(balances(), max_size=4))
    return settings(max_examples=300, deadline=None)(demands(test))


@everything
def test_an_admission_fits_every_enforced_balance(
    quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance]
) -> None:
    """Invariant 2."""
    outcome = ask(quote, caps, fit, touched)
    if isinstance(outcome, Admitted):
        assert outcome.held == quote.at(outcome.cap)
        assert fits(outcome.held, touched)
        assert min(caps.useful, caps.wanted) <= outcome.cap <= caps.wanted


@everything
def test_a_whole_demand_is_admitted_whole_or_modestly(
    quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance]
) -> None:
    outcome = ask(quote, caps, Fit.WHOLE, touched)
    if isinstance(outcome, Admitted):
        assert outcome.cap in (caps.wanted, caps.modest)


@everything
def test_a_lowered_cap_is_the_largest_that_fits(quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance]) -> None:
    plain = replace(caps, modest=None)
    outcome = ask(quote, plain, Fit.FREE, touched)
    if isinstance(outcome, Admitted) and outcome.cap < plain.wanted:
        assert not fits(quote.at(outcome.cap + 1), touched)


@everything
def test_at_the_last_try_a_call_is_admitted_if_any_useful_cap_is_free(
    quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance]
) -> None:
    """DESIGN: at the end of the wait whatever useful cap is free is taken. `fit: false` takes the whole or nothing."""
    plain = replace(caps, modest=None)
    flexible = [replace(one, limit=replace(one.limit, fit=True)) for one in touched]
    outcome = ask(quote, plain, Fit.FREE, flexible)
    assert isinstance(outcome, Admitted) == fits(quote.at(plain.useful), flexible)


@everything
def test_spent_means_that_settling_every_call_in_flight_at_nothing_would_not_help(
    quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance]
) -> None:
    outcome = ask(quote, caps, fit, touched)
    if not isinstance(outcome, Refused):
        return
    for reason in outcome.reasons:
        if reason.shortfall is Shortfall.SPENT and reason.limit.unit in CONSUMABLE:
            assert reason.need_useful > reason.amount - reason.settled
        if reason.shortfall is Shortfall.EXCEEDS:
            assert reason.need_useful > reason.amount > 0
    if outcome.can_wait and fit is not Fit.WHOLE:  # a demand for the whole is only a first try, and never waits
        drained = [replace(one, reserved=0) for one in touched]
        assert isinstance(ask(quote, caps, fit, drained), Admitted)


@everything
def test_shadow_balances_never_refuse_nor_change_what_is_admitted(
    quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance]
) -> None:
    outcome = ask(quote, caps, fit, touched)
    enforced = ask(quote, caps, fit, [one for one in touched if one.limit.is_enforced])
    if isinstance(outcome, Admitted):
        assert isinstance(enforced, Admitted)
        assert (outcome.cap, outcome.held) == (enforced.cap, enforced.held)
        assert all(not reason.limit.is_enforced for reason in outcome.would_refuse)
    else:
        assert outcome == enforced


@everything
def test_a_refusal_names_only_enforced_limits_the_strongest_first(
    quote: Quote, caps: CapRange, fit: Fit, touched: list[Balance]
) -> None:
    outcome = ask(quote, caps, fit, touched)
    if isinstance(outcome, Refused):
        strength = list(Shortfall)
        ranks = [strength.index(reason.shortfall) for reason in outcome.reasons]
        assert ranks == sorted(ranks)
        assert outcome.reasons
        assert all(reason.limit.is_enforced for reason in outcome.reasons)


@given(quotes, cap_ranges(), st.lists(balances(), max_size=3))
@settings(deadline=None)
def test_more_room_never_turns_an_admission_into_a_refusal(
    quote: Quote, caps: CapRange, touched: list[Balance]
) -> None:
    assume(isinstance(ask(quote, caps, Fit.LOWER, touched), Admitted))
    for place, one in enumerate(touched):
        freer = [*touched[:place], replace(one, amount=one.amount + 500), *touched[place + 1 :]]
        if caps.modest is None:
            assert isinstance(ask(quote, caps, Fit.LOWER, freer), Admitted)


QUOTE = Quote(input_tokens=0, fixed_picos=0, output_picos=1_000)
USD = Limit("l", Unit.USD, 100, Lifetime())

# cap range, fit, (amount, settled, reserved) -> the admitted cap or the shortfall
TABLE: list[tuple[CapRange, Fit, tuple[int, int, int], int | Shortfall]] = [
    (CapRange(50, 10), Fit.WHOLE, (100, 50, 0), 50),
    (CapRange(50, 10), Fit.WHOLE, (100, 60, 0), Shortfall.BUSY),
    (CapRange(50, 10), Fit.LOWER, (100, 60, 0), 40),
    (CapRange(50, 10), Fit.LOWER, (100, 60, 30), 10),
    (CapRange(50, 10), Fit.LOWER, (100, 60, 31), Shortfall.BUSY),
    (CapRange(50, 10), Fit.LOWER, (100, 40, 50), Shortfall.BUSY),
    (CapRange(50, 10), Fit.FREE, (100, 40, 50), 10),
    (CapRange(50, 10), Fit.FREE, (100, 40, 51), Shortfall.BUSY),
    (CapRange(50, 10), Fit.LOWER, (100, 90, 0), 10),
    (CapRange(50, 10), Fit.LOWER, (100, 91, 0), Shortfall.SPENT),
    (CapRange(200, 101), Fit.LOWER, (100, 0, 0), Shortfall.EXCEEDS),
    (CapRange(200, 10), Fit.LOWER, (100, 0, 0), 100),
    (CapRange(50, 10), Fit.LOWER, (0, 0, 0), Shortfall.SPENT),
    (CapRange(90, 5, 20), Fit.LOWER, (100, 0, 0), 20),
    (CapRange(90, 5, 20), Fit.LOWER, (10_000, 0, 0), 90),
]


@pytest.mark.parametrize(("caps", "fit", "state", "expected"), TABLE)
def test_the_table_of_fits(caps: CapRange, fit: Fit, state: tuple[int, int, int], expected: int | Shortfall) -> None:
    amount, settled, reserved = state
    outcome = ask(QUOTE, caps, fit, [Balance(USD, "[]", amount, settled, reserved, None)])
    assert (outcome.cap if isinstance(outcome, Admitted) else outcome.shortfall) == expected


def test_a_rate_refuses_with_the_instant_at_which_it_passes() -> None:
    outcome = ask(QUOTE, CapRange(1, 1), Fit.LOWER, [], [rate(2, used=2)])
    assert isinstance(outcome, Refused)
    assert (outcome.shortfall, outcome.reasons[0].retry_at_ms) == (Shortfall.RATE, NOW_NS // 10**6 + 500)
    assert isinstance(ask(QUOTE, CapRange(1, 1), Fit.LOWER, [], [rate(2, used=1)]), Admitted)
    assert isinstance(ask(QUOTE, CapRange(1, 1), Fit.LOWER, [], [rate(2, used=2, shadow=True)]), Admitted)


def test_a_rate_of_nothing_never_passes() -> None:
    outcome = ask(QUOTE, CapRange(1, 1), Fit.LOWER, [], [rate(0)])
    assert isinstance(outcome, Refused)
    assert outcome.reasons[0].retry_at_ms is None
    assert rate(0).passed(NOW_NS) == rate(0).tat_ns


def test_a_full_place_is_a_rate_and_no_place_at_all_is_spent() -> None:
    parallel = Limit("p", Unit.CONCURRENT, 2, Lifetime())
    full = ask(QUOTE, CapRange(1, 1), Fit.LOWER, [Balance(parallel, "[]", 2, 0, 2, None)])
    none = ask(QUOTE, CapRange(1, 1), Fit.LOWER, [Balance(parallel, "[]", 0, 0, 0, None)])
    assert isinstance(full, Refused)
    assert isinstance(none, Refused)
    assert (full.shortfall, none.shortfall) == (Shortfall.RATE, Shortfall.SPENT)


@pytest.mark.parametrize(("need_useful", "is_spent"), [(5, True), (6, False)])
def test_only_a_small_useful_minimum_counts_as_spent_for_alerts(need_useful: int, is_spent: bool) -> None:
    outcome = ask(QUOTE, CapRange(50, need_useful), Fit.LOWER, [Balance(USD, "[]", 100, 100, 0, None)])
    assert isinstance(outcome, Refused)
    assert outcome.reasons[0].is_spent_for_alerts is is_spent


def test_a_reason_tells_its_arithmetic_to_people() -> None:
    limit = Limit("user-tokens", Unit.TOKENS, 1_000, Lifetime(), each=("user",))
    outcome = ask(QUOTE, CapRange(900, 300), Fit.LOWER, [Balance(limit, '["u1"]', 1_000, 800, 100, None)])
    assert isinstance(outcome, Refused)
    reason: Reason = outcome.reasons[0]
    assert reason.left == 100
    assert reason.describe() == (
        'limit "user-tokens" (user=u1): 1,000 tokens, 100 tokens left (100 tokens held by calls in flight), '
        "call needs up to 900 tokens and at least 300 tokens"
    )


@pytest.mark.parametrize(("unit", "cap"), [(Unit.OUTPUT_TOKENS, 50), (Unit.TOKENS, 50), (Unit.INPUT_TOKENS, 400)])
def test_a_cap_that_nobody_asked_for_is_modest_only_where_it_takes_from_what_is_left(unit: Unit, cap: int) -> None:
    tight = Balance(Limit("l", unit, 0, Lifetime()), "[]", 1_000, 0, 0, None)
    outcome = ask(Quote(300, 0, 0), CapRange(wanted=400, useful=10, modest=50), Fit.WHOLE, [tight])
    assert isinstance(outcome, Admitted)
    assert outcome.cap == cap
