from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.prices import DailyWindow, DatedPrice, Price, Rates, price_at, prices_within
from spendfuse.core.usage import Usage

picos = st.integers(0, 10**8)
rates = st.builds(
    Rates,
    input=picos,
    output=picos,
    cache_read=st.none() | picos,
    cache_write=st.none() | picos,
    cache_write_long=st.none() | picos,
    input_audio=st.none() | picos,
    cache_read_audio=st.none() | picos,
    output_audio=st.none() | picos,
    request=picos,
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    text, read, write, long, audio, audio_read = draw(st.tuples(*[st.integers(0, 10**5)] * 6))
    output = draw(st.integers(0, 10**5))
    output_audio = draw(st.integers(0, output))
    return Usage(
        text + read + write + long + audio + audio_read, output, read, write, long, audio, audio_read, output_audio
    )


@given(rates, usages())
def test_no_usage_costs_more_than_its_tokens_at_the_dearest_rates(rates: Rates, usage: Usage) -> None:
    most = (
        usage.input_tokens * rates.dearest_input(audio=True)
        + usage.output_tokens * rates.dearest_output(audio=True)
        + rates.request
    )
    assert rates.cost_picos(usage) <= most


@given(rates, st.integers(0, 10**5), st.integers(0, 10**5))
def test_a_call_without_audio_does_not_pay_for_it(rates: Rates, text: int, output: int) -> None:
    most = text * rates.dearest_input() + output * rates.dearest_output() + rates.request
    assert rates.cost_picos(Usage(text, output)) <= most


def test_a_part_without_a_rate_costs_what_it_would_without_its_discount() -> None:
    rates = Rates(input=100, output=1_000)
    usage = Usage(60, 7, 10, 10, 10, 10, 10, 3)
    assert rates.cost_picos(usage) == 60 * 100 + 7 * 1_000


def test_each_part_has_its_own_rate() -> None:
    rates = Rates(1, 1_000, 2, 4, 8, 16, 32, 9_000, request=5)
    assert rates.cost_picos(Usage(6, 3, 1, 1, 1, 1, 1, 1)) == 1 + 2 + 4 + 8 + 16 + 32 + 2 * 1_000 + 9_000 + 5


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Rates(input=1, output=-1)


LOW, MIDDLE, HIGH = Rates(1_000, 1), Rates(2_000, 2), Rates(4_000, 4)
TIERED = Price(LOW, ((100, MIDDLE), (200, HIGH)))


@pytest.mark.parametrize(("tokens", "expected"), [(0, LOW), (100, LOW), (101, MIDDLE), (200, MIDDLE), (201, HIGH)])
def test_a_tier_prices_the_whole_call_above_its_threshold(tokens: int, expected: Rates) -> None:
    assert TIERED.rates_for(tokens) == expected
    assert TIERED.charge(Usage(tokens, 0)) == tokens * expected.input // 1_000


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_rates_up_to_a_bound_hold_those_of_every_smaller_call(bound: int, tokens: int) -> None:
    assert TIERED.rates_for(min(tokens, bound)) in TIERED.rates_up_to(bound)


def test_a_charge_is_rounded_up_once() -> None:
    assert Price(Rates(input=1, output=1)).charge(Usage(1, 1)) == 1
    assert Price(Rates(input=37_500, output=0)).charge(Usage(3, 0)) == 113


def test_a_price_is_free_only_without_any_rate() -> None:
    assert Price(Rates(0, 0)).is_free
    assert not Price(Rates(0, 0, request=1)).is_free
    assert not Price(Rates(0, 0), ((9, Rates(0, 1)),)).is_free


def cheap(number: int) -> Price:
    return Price(Rates(number, number))


JUNE = datetime(2025, 6, 10, tzinfo=UTC)


def test_a_price_holds_from_its_date_on() -> None:
    prices = [DatedPrice(None, cheap(10)), DatedPrice(JUNE, cheap(2))]
    assert price_at(prices, JUNE - timedelta(microseconds=1)) == cheap(10)
    assert price_at(prices, JUNE) == cheap(2)
    assert price_at(prices, JUNE.astimezone(timezone(timedelta(hours=9)))) == cheap(2)
    assert price_at(prices[1:], JUNE - timedelta(days=1)) is None


PEAK = DailyWindow(3_600, 4 * 3_600)
NIGHT = DailyWindow(22 * 3_600, 2 * 3_600)


@pytest.mark.parametrize(
    ("hour", "minute", "peak", "night"),
    [(0, 59, False, True), (1, 0, True, True), (3, 59, True, False), (4, 0, False, False), (22, 0, False, True)],
)
def test_daily_windows_are_in_utc_and_may_pass_midnight(hour: int, minute: int, peak: bool, night: bool) -> None:
    at = JUNE.replace(hour=hour, minute=minute)
    for zone in (UTC, timezone(timedelta(hours=-7))):
        assert PEAK.holds_at(at.astimezone(zone)) is peak
        assert NIGHT.holds_at(at.astimezone(zone)) is night


DAILY = (
    DatedPrice(None, cheap(10)),
    DatedPrice(JUNE, cheap(1)),
    DatedPrice(JUNE, cheap(2), PEAK),
    DatedPrice(JUNE, cheap(3), NIGHT),
)


@given(st.integers(-2 * 86_400, 2 * 86_400), st.integers(0, 86_400), st.data())
def test_prices_within_a_span_hold_that_of_every_instant_in_it(start_s: int, span_s: int, data: st.DataObject) -> None:
    at, span = JUNE + timedelta(seconds=start_s), timedelta(seconds=span_s)
    within = prices_within(DAILY, at, span)
    offset_s = data.draw(st.integers(0, span_s))
    assert price_at(DAILY, at + timedelta(seconds=offset_s)) in within
