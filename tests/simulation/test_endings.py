"""What each way of ending a reservation costs: never less than was seen, never silently nothing (invariant 11)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.quotes import Quote
from spendfuse.gate.endings import VOID_STATUSES, Held, Seen, charge_seen, charge_unknown, tail_tokens
from spendfuse.gate.learned import LEARNED_MIN_TOKENS, PAIRS_MAX, LearnedCaps

quotes = st.builds(
    Quote,
    input_tokens=st.integers(0, 10**6),
    fixed_picos=st.integers(0, 10**12),
    output_picos=st.integers(0, 10**8),
    choices=st.integers(1, 8),
)
holds = st.builds(Held, quotes, st.integers(0, 10**5))


@st.composite
def sights(draw: st.DrawFn) -> Seen:
    at_least = draw(st.integers(0, 10**6))
    return Seen(at_least, at_least + draw(st.integers(0, 10**6)))


@given(holds, st.floats(0, 10**4))
def test_an_unknown_fate_costs_at_most_the_quote_and_at_least_the_input(held: Held, elapsed_s: float) -> None:
    charge = charge_unknown(held, elapsed_s=elapsed_s, output_tokens_per_s_max=1_000)
    assert charge.estimated
    assert held.quote.at(0).cost <= charge.cost <= held.quote.at(held.cap).cost
    assert charge.usage.input_tokens == held.quote.input_tokens


def test_an_unknown_fate_costs_the_whole_quote_once_the_target_could_have_made_it() -> None:
    held = Held(Quote(10, 10_000, 600_000, choices=2), cap=500)
    full = held.quote.at(500)
    assert charge_unknown(held, elapsed_s=0.5, output_tokens_per_s_max=1_000).amounts == full
    assert charge_unknown(held, elapsed_s=60, output_tokens_per_s_max=1_000).amounts == full
    assert charge_unknown(held, elapsed_s=0.1, output_tokens_per_s_max=1_000).usage.output_tokens == 200


@given(holds, sights(), st.integers(0, 10**5))
def test_a_cut_stream_costs_what_was_seen_and_only_what_is_certain_above_its_reservation(
    held: Held, seen: Seen, tail: int
) -> None:
    output_tokens = charge_seen(held, seen, tail_tokens=tail).usage.output_tokens
    assert output_tokens >= seen.at_least
    assert output_tokens >= min(held.output_tokens, seen.at_most + tail)
    assert output_tokens <= max(held.output_tokens, seen.at_least)


@given(st.integers(0, 10**6), st.floats(0, 10**4), st.floats(0, 60))
def test_the_tail_follows_the_streams_own_rate(seen_tokens: int, streamed_s: float, tail_s: float) -> None:
    tail = tail_tokens(seen_tokens=seen_tokens, streamed_s=streamed_s, tail_s=tail_s)
    assert tail >= 0
    if streamed_s >= 0.01:
        assert abs(tail - seen_tokens * tail_s / streamed_s) <= 1 + seen_tokens * 1e-6


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 499, 500, 502, 503, 529])
def test_an_error_before_any_output_is_proof_that_nothing_was_billed(status: int) -> None:
    assert status in VOID_STATUSES


@pytest.mark.parametrize("status", [408, 504, 524, 501, 520])
def test_an_error_that_leaves_the_fate_unknown_is_no_such_proof(status: int) -> None:
    assert status not in VOID_STATUSES


def test_a_cap_is_learned_from_the_long_answers_of_its_feature_only() -> None:
    caps = LearnedCaps()
    assert caps.cap("m", "search") == LEARNED_MIN_TOKENS
    for output_tokens in [100] * 98 + [4_000] * 2:
        caps.observe("m", "search", output_tokens)
    assert caps.cap("m", "search") == 5_000
    assert caps.cap("m", "chat") == LEARNED_MIN_TOKENS


def test_old_answers_are_forgotten() -> None:
    caps = LearnedCaps()
    caps.observe("m", "f", 40_000)
    for _ in range(500):
        caps.observe("m", "f", 10)
    assert caps.cap("m", "f") == LEARNED_MIN_TOKENS


def test_invented_features_do_not_grow_memory() -> None:
    caps = LearnedCaps()
    for number in range(PAIRS_MAX + 10):
        caps.observe("m", str(number), 10_000)
        caps.cap("m", f"never seen {number}")
    assert caps.cap("m", "0") == LEARNED_MIN_TOKENS
    assert caps.cap("m", str(PAIRS_MAX + 9)) == 12_500
