"""Breakers: what trips them, what closes them, and that a half-open one has one probe at a time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.breakers import (
    CLOSED,
    Breaker,
    Burn,
    Counts,
    Drift,
    ErrorRate,
    MeanLatency,
    Measure,
    Passage,
    Phase,
    Spent,
    State,
    bucket_of,
    closed_by_hand,
    counts_now,
    forced_open,
    judged,
    opened,
    passage,
    probe_ended,
    probe_given_up,
    probe_renewed,
    probe_taken,
    recovered,
    trip_reason,
    window_from_ms,
)
from spendfuse.core.windows import Span

NOW_MS = 1_795_262_400_000
LEASE_MS = 60_000
PROBE = 7
ERRORS = Breaker("errors", ErrorRate(percent=10), each=("target",))
SLOW = Breaker("slow", MeanLatency(ms=30_000), each=("target",), cooldown_ms=60_000)
BURN = Breaker("burn", Burn(nanos=20_000_000_000), over=Span(600_000))
USUAL = Breaker("usual", Burn(times=4), over=Span(3_600_000))
LONGER = Breaker("longer", Drift(Measure.OUTPUT_TOKENS, times=3, baseline_ms=604_800_000), each=("feature",))
DEARER = Breaker("dearer", Drift(Measure.COST, times=2, baseline_ms=604_800_000))
QUIET = replace(ERRORS, opens=False)
SPEND = Breaker("spend", Spent("company-month"))
BEFORE = Counts(calls=100, output_tokens=10_000)

TRIPS = [
    ("exactly ten percent", ERRORS, Counts(calls=100, errors=10), None, False),
    ("above ten percent", ERRORS, Counts(calls=100, errors=11), None, True),
    ("too few calls", ERRORS, Counts(calls=19, errors=19), None, False),
    ("enough calls", ERRORS, Counts(calls=20, errors=20), None, True),
    ("too few errors", ERRORS, Counts(calls=20, errors=4), None, False),
    ("exactly the mean", SLOW, Counts(timed=10, latency_ms=300_000), None, False),
    ("a mean of 29 s", SLOW, Counts(timed=10, latency_ms=290_000), None, False),
    ("a mean of 31 s", SLOW, Counts(timed=10, latency_ms=310_000), None, True),
    ("a mean above by a millisecond in all", SLOW, Counts(timed=10, latency_ms=300_001), None, True),
    ("too few answers", SLOW, Counts(timed=9, latency_ms=900_000), None, False),
    ("exactly what may burn", BURN, Counts(cost=20_000_000_000), None, False),
    ("a nano-dollar more", BURN, Counts(cost=20_000_000_001), None, True),
    ("four times the usual", USUAL, Counts(cost=400), Counts(cost=100), False),
    ("more than four times the usual", USUAL, Counts(cost=401), Counts(cost=100), True),
    ("nothing is usual yet", USUAL, Counts(cost=10**12), Counts(), False),
    ("three times as long", LONGER, Counts(calls=20, output_tokens=6_000), BEFORE, False),
    ("longer than that", LONGER, Counts(calls=20, output_tokens=6_001), BEFORE, True),
    ("too few to tell", LONGER, Counts(calls=19, output_tokens=60_000), BEFORE, False),
    ("too little before", LONGER, Counts(calls=20, output_tokens=60_000), Counts(calls=19, output_tokens=1_900), False),
    ("twice as dear and more", DEARER, Counts(calls=20, cost=4_001), Counts(calls=20, cost=2_000), True),
    ("no count spends a limit", SPEND, Counts(calls=10**6, errors=10**6, cost=10**15), None, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("breaker", "counts", "baseline", "trips"), [case[1:] for case in TRIPS], ids=[case[0] for case in TRIPS]
)
def test_thresholds_mean_above(breaker: Breaker, counts: Counts, baseline: Counts | None, trips: bool) -> None:
    state = judged(breaker, CLOSED, counts, NOW_MS, baseline=baseline or Counts())
    assert (state is not None) is trips
    if state is not None:
        assert state.phase is Phase.OPEN
        assert state.why == trip_reason(breaker, counts, baseline=baseline or Counts())


@pytest.mark.parametrize(
    ("breaker", "counts", "baseline", "why"),
    [
        (ERRORS, Counts(calls=42, errors=9), Counts(), "9 errors in 42 attempts over 5m, above 10%"),
        (
            SLOW,
            Counts(timed=20, latency_ms=631_000),
            Counts(),
            "mean latency 31.55 s in 20 answers over 5m, above 30 s",
        ),
        (BURN, Counts(cost=21_500_000_000), Counts(), "$21.50 spent over 10m, above $20.00"),
        (
            LONGER,
            Counts(calls=20, output_tokens=20_000),
            Counts(calls=100, output_tokens=30_000),
            "mean output tokens of a call 1,000 over 5m, above 3 times the usual 300",
        ),
    ],
)
def test_a_breaker_says_why_it_opened(breaker: Breaker, counts: Counts, baseline: Counts, why: str) -> None:
    assert trip_reason(breaker, counts, baseline=baseline) == why


def test_an_open_breaker_blocks_until_its_cooldown_is_over_and_then_wants_a_probe() -> None:
    state = opened(ERRORS, NOW_MS, "errors")
    assert passage(state, NOW_MS) is Passage.BLOCKED
    assert passage(state, NOW_MS + 29_999) is Passage.BLOCKED
    assert passage(state, NOW_MS + 30_000) is Passage.PROBE
    assert probe_taken(state, NOW_MS + 29_999, probe_id=PROBE, lease_ms=LEASE_MS) is None


def test_a_half_open_breaker_has_one_probe_at_a_time_until_its_lease_is_over() -> None:
    """Invariant 15."""
    begins_ms = NOW_MS + 30_000
    probing = probe_taken(opened(ERRORS, NOW_MS, "errors"), begins_ms, probe_id=PROBE, lease_ms=LEASE_MS)
    assert probing is not None
    assert probing.phase is Phase.HALF_OPEN
    assert passage(probing, begins_ms) is Passage.BLOCKED
    assert probe_taken(probing, begins_ms + LEASE_MS - 1, probe_id=PROBE, lease_ms=LEASE_MS) is None
    again = probe_taken(probing, begins_ms + LEASE_MS, probe_id=PROBE, lease_ms=LEASE_MS)
    assert again is not None
    assert again.probe_until_ms == begins_ms + 2 * LEASE_MS


def test_a_probe_closes_it_or_opens_it_for_another_cooldown() -> None:
    probing = State(
        Phase.HALF_OPEN, NOW_MS, probe_id=PROBE, probe_until_ms=NOW_MS + LEASE_MS, why="9 errors in 42 attempts"
    )
    closed = probe_ended(ERRORS, probing, NOW_MS + 5, probe_id=PROBE, succeeded=True)
    assert closed == State(Phase.CLOSED, NOW_MS + 5, why="the probe succeeded")
    assert probe_ended(ERRORS, probing, NOW_MS + 5, probe_id=PROBE + 1, succeeded=True) is None
    failed = probe_ended(ERRORS, probing, NOW_MS + 5, probe_id=PROBE, succeeded=False)
    assert failed is not None
    assert (failed.phase, failed.tries_at_ms) == (Phase.OPEN, NOW_MS + 30_005)
    assert failed.why == "the probe failed; 9 errors in 42 attempts"
    again = probe_ended(ERRORS, replace(probing, why=failed.why), NOW_MS, probe_id=PROBE, succeeded=False)
    assert again is not None and again.why == failed.why


def test_a_probe_that_runs_on_renews_its_lease() -> None:
    probing = State(Phase.HALF_OPEN, NOW_MS, probe_id=PROBE, probe_until_ms=NOW_MS + LEASE_MS)
    renewed = probe_renewed(probing, NOW_MS + 50_000, probe_id=PROBE, lease_ms=LEASE_MS)
    assert renewed == replace(probing, probe_until_ms=NOW_MS + 50_000 + LEASE_MS)
    assert probe_renewed(probing, NOW_MS, probe_id=PROBE + 1, lease_ms=LEASE_MS) is None


def test_a_probe_that_never_went_leaves_its_place_to_another_at_once() -> None:
    probing = State(Phase.HALF_OPEN, NOW_MS, probe_id=PROBE, probe_until_ms=NOW_MS + LEASE_MS)
    left = probe_given_up(probing, NOW_MS + 1, probe_id=PROBE)
    assert left is not None
    assert passage(left, NOW_MS + 1) is Passage.PROBE


@pytest.mark.parametrize("phase", [Phase.CLOSED, Phase.OPEN, Phase.FORCED_OPEN])
def test_a_probe_that_comes_back_late_changes_nothing(phase: Phase) -> None:
    state = State(phase, NOW_MS)
    assert probe_ended(ERRORS, state, NOW_MS, probe_id=PROBE, succeeded=True) is None
    assert probe_ended(ERRORS, state, NOW_MS, probe_id=PROBE, succeeded=False) is None
    assert probe_given_up(state, NOW_MS, probe_id=PROBE) is None


def test_only_a_hand_closes_what_a_hand_opened() -> None:
    state = forced_open(NOW_MS, why="the vendor is down", who="ana")
    assert passage(state, NOW_MS + 10**12) is Passage.BLOCKED
    assert probe_taken(state, NOW_MS + 10**12, probe_id=PROBE, lease_ms=LEASE_MS) is None
    assert judged(ERRORS, state, Counts(), NOW_MS + 10**12) is None
    assert judged(BURN, state, Counts(), NOW_MS + 10**12) is None
    closed = closed_by_hand(NOW_MS + 1, why="it is back", who="ana")
    assert (passage(closed, NOW_MS + 1), closed.who) == (Passage.FREE, "ana")


def test_what_began_before_it_closed_does_not_trip_it_again() -> None:
    closed = recovered(NOW_MS, "over")
    assert not counts_now(ERRORS, closed, closed_since_ms=NOW_MS - 1)
    assert counts_now(ERRORS, closed, closed_since_ms=NOW_MS)
    assert counts_now(ERRORS, CLOSED, closed_since_ms=0)
    for breaker, counts in ((ERRORS, False), (QUIET, True), (BURN, True), (SPEND, False)):
        assert counts_now(breaker, opened(breaker, NOW_MS, ""), closed_since_ms=0) is counts


def test_a_window_begins_at_the_bucket_that_holds_its_first_instant() -> None:
    assert window_from_ms(ERRORS, NOW_MS) == NOW_MS - 300_000
    assert window_from_ms(ERRORS, NOW_MS + 4_999) == NOW_MS - 300_000
    assert window_from_ms(ERRORS, NOW_MS + 5_000) == NOW_MS - 295_000
    assert bucket_of(ERRORS, NOW_MS + 4_999) == NOW_MS


@pytest.mark.parametrize("breaker", [BURN, LONGER, QUIET])
def test_a_breaker_of_money_or_drift_or_for_alerts_only_sends_no_probe_and_closes_when_what_tripped_it_is_over(
    breaker: Breaker,
) -> None:
    tripping = Counts(calls=100, errors=50, cost=10**12, output_tokens=10**6)
    usual = Counts(calls=100, cost=1, output_tokens=1)
    state = judged(breaker, CLOSED, tripping, NOW_MS, baseline=usual)
    assert state is not None
    over_ms = NOW_MS + breaker.cooldown_ms
    assert passage(state, over_ms) is Passage.BLOCKED
    assert judged(breaker, state, Counts(), over_ms - 1, baseline=usual) is None
    assert judged(breaker, state, tripping, over_ms, baseline=usual) is None
    closed = judged(breaker, state, Counts(), over_ms, baseline=usual)
    assert closed is not None
    assert closed.phase is Phase.CLOSED


def test_a_breaker_of_a_limit_stays_open_until_the_limit_is_no_longer_spent() -> None:
    state = opened(SPEND, NOW_MS, "limit company-month is spent")
    assert state.tries_at_ms is None
    turning = opened(SPEND, NOW_MS, "limit company-month is spent", closes_at_ms=NOW_MS + 10)
    assert passage(turning, NOW_MS + 9) is Passage.BLOCKED
    assert passage(turning, NOW_MS + 10) is Passage.FREE
    assert passage(state, NOW_MS + 10**12) is Passage.BLOCKED
    assert judged(SPEND, state, Counts(), NOW_MS + 10**12) is None


COUNTS = st.builds(
    Counts,
    calls=st.integers(0, 200),
    errors=st.integers(0, 200),
    timed=st.integers(0, 200),
    latency_ms=st.integers(0, 10**7),
    cost=st.integers(0, 10**11),
    output_tokens=st.integers(0, 10**6),
)
BREAKERS = st.sampled_from([ERRORS, SLOW, BURN, USUAL, LONGER, DEARER, SPEND])


@given(BREAKERS, st.lists(st.tuples(st.sampled_from("jtsfgl"), COUNTS, st.integers(0, 90_000)), max_size=40))
def test_no_history_lets_a_second_probe_through(breaker: Breaker, steps: list[tuple[str, Counts, int]]) -> None:
    """Between two probes the first has ended, was given up, or its lease was over."""
    state, now_ms = CLOSED, NOW_MS
    probing_until_ms: int | None = None
    for verb, counts, wait_ms in steps:
        now_ms += wait_ms
        after: State | None = None
        if verb == "j":
            after = judged(breaker, state, counts, now_ms)
        elif verb == "t":
            after = probe_taken(state, now_ms, probe_id=PROBE, lease_ms=LEASE_MS)
            if after is not None:
                assert probing_until_ms is None or now_ms >= probing_until_ms
                probing_until_ms = now_ms + LEASE_MS
        elif verb in "sf":
            after = probe_ended(breaker, state, now_ms, probe_id=PROBE, succeeded=verb == "s")
        elif verb == "g":
            after = probe_given_up(state, now_ms, probe_id=PROBE)
        else:
            after = replace(forced_open(now_ms, why="", who=""), phase=Phase.CLOSED)
        if after is not None:
            assert after != state or verb == "l"
            probing_until_ms = probing_until_ms if after.phase is Phase.HALF_OPEN else None
            state = after
