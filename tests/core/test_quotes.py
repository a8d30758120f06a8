import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.limits import Unit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts, CapRange, Quote

quotes = st.builds(
    Quote,
    input_tokens=st.integers(0, 10**6),
    fixed_picos=st.integers(0, 10**15),
    output_picos=st.integers(0, 10**9),
    choices=st.integers(1, 8),
)
amounts = st.integers(0, 10**13)


@given(quotes, st.sampled_from([Unit.USD, Unit.TOKENS, Unit.OUTPUT_TOKENS]), amounts)
def test_cap_within_is_the_largest_that_fits(quote: Quote, unit: Unit, amount: int) -> None:
    cap = quote.cap_within(unit, amount)
    if cap is None:
        assert quote.at(10**9).of(unit) <= amount
    elif cap < 0:
        assert cap == -1
        assert quote.at(0).of(unit) > amount
    else:
        assert quote.at(cap).of(unit) <= amount < quote.at(cap + 1).of(unit)


@pytest.mark.parametrize("wrong", [(-1, 0, 0, 1), (0, -1, 0, 1), (0, 0, -1, 1), (0, 0, 0, 0)])
def test_a_quote_holds_no_negative_amount(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="negative"):
        Quote(*wrong)


@given(quotes, amounts)
def test_a_unit_that_output_does_not_touch_takes_any_cap_or_none(quote: Quote, amount: int) -> None:
    for unit in (Unit.INPUT_TOKENS, Unit.REQUESTS, Unit.CONCURRENT):
        cap = quote.cap_within(unit, amount)
        assert cap == (None if quote.at(0).of(unit) <= amount else -1)


@given(quotes, st.integers(0, 10**5), st.integers(1, 10**5))
def test_a_quote_grows_with_its_cap(quote: Quote, cap: int, more: int) -> None:
    low, high = quote.at(cap), quote.at(cap + more)
    assert low.cost <= high.cost
    assert high.output_tokens - low.output_tokens == more * quote.choices
    assert low.input_tokens == high.input_tokens == quote.input_tokens


@given(quotes, st.integers(0, 10**5))
def test_a_quote_is_rounded_up_once(quote: Quote, cap: int) -> None:
    picos = quote.fixed_picos + cap * quote.choices * quote.output_picos
    assert 0 <= quote.at(cap).cost * 1_000 - picos < 1_000


def test_amounts_have_every_unit() -> None:
    held = Amounts(Nanos(7), 20, 5)
    assert [held.of(unit) for unit in Unit] == [
        {Unit.USD: 7, Unit.TOKENS: 25, Unit.INPUT_TOKENS: 20, Unit.OUTPUT_TOKENS: 5}.get(unit, 1) for unit in Unit
    ]


@given(st.integers(-2, 10), st.integers(-2, 10), st.none() | st.integers(-2, 10))
def test_a_cap_range_is_ordered(wanted: int, useful: int, modest: int | None) -> None:
    is_ordered = 0 <= useful <= wanted and (modest is None or useful <= modest <= wanted)
    if is_ordered:
        assert CapRange(wanted, useful, modest).wanted == wanted
    else:
        with pytest.raises(ValueError, match="cap"):
            CapRange(wanted, useful, modest)
