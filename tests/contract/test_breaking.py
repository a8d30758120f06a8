"""Breakers are the same for all processes, on every engine, through restarts and the death of any of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from ledger_harness import DAY, LIFETIME, NOON_NS, Harness, StoreHarness, admitted, charge, claim, contract, limit, rid

from spendfuse.core.breakers import (
    CLOSED,
    PAUSE,
    Breaker,
    Burn,
    Counts,
    Drift,
    ErrorRate,
    MeanLatency,
    Measure,
    Phase,
    Spent,
    State,
)
from spendfuse.core.windows import Span
from spendfuse.ledger.breakers import PROBE_LEASE_MS, Attempts, BreakerStates
from spendfuse.ledger.spent import SpentNote
from spendfuse.ledger.store import Ledger, Topic

NOON_MS = NOON_NS // 10**6
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
MIDNIGHT_MS = NOON_MS + DAY_MS // 2
ERRORS = Breaker("errors", ErrorRate(percent=10), each=("target",))
SLOW = Breaker("slow", MeanLatency(ms=30_000), each=("target",), cooldown_ms=60_000)
BURN = Breaker("burn", Burn(nanos=1_000), over=Span(600_000))
ALL = limit("all", 1_000, per=DAY)
BY_USER = limit("user", 500, per=DAY, each=("user",))
SPEND = Breaker("spend", Spent("all"))
SPEND_EACH = Breaker("spend-each", Spent("user"), each=("user",))
GPT, CLAUDE = '["openai/gpt"]', '["anthropic/claude"]'
ALL_CALLS = "[]"


def state_of(states: BreakerStates, breaker: Breaker, subject: str = GPT) -> State:
    """How a breaker stands, as some verb or a process's copy says."""
    return next((one.state for one in states.lines if one.key == (breaker.name, subject)), CLOSED)


async def stands(ledger: Ledger, breaker: Breaker, subject: str = GPT) -> State:
    """How a breaker stands in the store."""
    return state_of(await ledger.breakers(), breaker, subject)


async def count(
    ledger: Ledger, counts: Counts, breaker: Breaker = ERRORS, subject: str = GPT, *, closed_since_ms: int = 0
) -> State:
    """Count attempts: how their breaker stands then."""
    told = await ledger.count_attempts([Attempts(breaker, subject, closed_since_ms, counts)])
    return state_of(told, breaker, subject)


async def opened(ledger: Ledger, breaker: Breaker = ERRORS, subject: str = GPT) -> State:
    """Open a breaker by what it counts."""
    state = await count(ledger, Counts(20, 20, 20, 10**6, 10**6, 10**6), breaker, subject)
    assert state.phase is Phase.OPEN
    return state


async def log(ledger: Ledger) -> Sequence[tuple[str, str, str, str]]:
    """All changes: breaker, from, to, who."""
    return [(one.breaker, one.before.value, one.after.value, one.who) for one in await ledger.breaker_changes()]


@contract
async def test_what_several_processes_count_opens_a_breaker_for_all_of_them(harness: Harness) -> None:
    first, second = await harness.open(ALL), await harness.open(ALL)
    for ledger in (first, second, first):
        assert (await count(ledger, Counts(calls=6, errors=6))).phase is Phase.CLOSED
    before = (await first.revisions())[Topic.BREAKERS]
    state = await count(second, Counts(calls=2, errors=2))
    assert state == State(
        Phase.OPEN, NOON_MS, NOON_MS + 30_000, why="20 errors in 20 attempts over 5m, above 10%", who="spendfuse"
    )
    states = await first.breakers()
    assert (states.revision, states.now_ms) == (before + 1, NOON_MS)
    assert [(one.key, one.each, one.state) for one in states.lines] == [(("errors", GPT), ("target",), state)]
    assert await stands(first, ERRORS, CLAUDE) == CLOSED


@pytest.mark.parametrize(("errors", "phase"), [(10, Phase.CLOSED), (11, Phase.OPEN)])
@contract
async def test_exactly_ten_percent_does_not_open_and_above_does(harness: Harness, errors: int, phase: Phase) -> None:
    ledger = await harness.open(ALL)
    for _ in range(10):
        await count(ledger, Counts(calls=9))
        harness.clock.advance(ms=10_000)
    assert (await count(ledger, Counts(calls=10, errors=errors))).phase is phase


@pytest.mark.parametrize(("latency_s", "phase"), [(29, Phase.CLOSED), (30, Phase.CLOSED), (31, Phase.OPEN)])
@contract
async def test_a_mean_latency_of_31_s_opens_and_of_29_s_does_not(
    harness: Harness, latency_s: int, phase: Phase
) -> None:
    ledger = await harness.open(ALL)
    for _ in range(10):
        state = await count(ledger, Counts(timed=1, latency_ms=latency_s * 1_000), SLOW)
        harness.clock.advance(ms=20_000)
    assert state.phase is phase  # pyright: ignore[reportPossiblyUnboundVariable]


@contract
async def test_an_idle_hour_forgets_old_failures(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    await count(ledger, Counts(calls=19, errors=19))
    harness.clock.advance(ms=HOUR_MS)
    assert (await count(ledger, Counts(calls=19, errors=19))).phase is Phase.CLOSED
    harness.clock.advance(ms=5 * MINUTE_MS)
    assert (await count(ledger, Counts(calls=1, errors=1))).phase is Phase.OPEN


@contract
async def test_a_window_rolls_by_its_buckets(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    await count(ledger, Counts(calls=19, errors=19))
    harness.clock.advance(ms=5 * MINUTE_MS + 5_000)
    assert (await count(ledger, Counts(calls=1, errors=1))).phase is Phase.CLOSED
    assert (await count(ledger, Counts(calls=18, errors=18))).phase is Phase.CLOSED
    assert (await count(ledger, Counts(calls=1, errors=1))).phase is Phase.OPEN


@contract
async def test_a_half_open_breaker_admits_one_probe_over_all_processes(harness: Harness) -> None:
    """Invariant 15."""
    ledgers = [await harness.open(ALL) for _ in range(4)]
    await opened(ledgers[0])
    harness.clock.advance(ms=29_999)
    early = await ledgers[0].take_probe([(ERRORS, GPT)], probe_id=1)
    assert state_of(early, ERRORS).phase is Phase.OPEN
    harness.clock.advance(ms=1)
    taken = await asyncio.gather(
        *[one.take_probe([(ERRORS, GPT)], probe_id=10 + number) for number, one in enumerate(ledgers * 5)]
    )
    granted = {state_of(one, ERRORS).probe_id for one in taken}
    assert len(granted) == 1
    assert await stands(ledgers[0], ERRORS) == State(
        Phase.HALF_OPEN,
        NOON_MS,
        probe_id=granted.pop(),
        probe_until_ms=NOON_MS + 30_000 + PROBE_LEASE_MS,
        why="20 errors in 20 attempts over 5m, above 10%",
    )


@contract
async def test_a_probe_closes_its_breaker_or_opens_it_for_another_cooldown(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    await opened(ledger)
    harness.clock.advance(ms=30_000)
    await ledger.take_probe([(ERRORS, GPT)], probe_id=1)
    assert state_of(await ledger.end_probe(ERRORS, GPT, probe_id=2, succeeded=True), ERRORS).phase is Phase.HALF_OPEN
    failed = state_of(await ledger.end_probe(ERRORS, GPT, probe_id=1, succeeded=False), ERRORS)
    assert (failed.phase, failed.tries_at_ms) == (Phase.OPEN, NOON_MS + 60_000)
    harness.clock.advance(ms=30_000)
    await ledger.take_probe([(ERRORS, GPT)], probe_id=3)
    closed = state_of(await ledger.end_probe(ERRORS, GPT, probe_id=3, succeeded=True), ERRORS)
    assert closed == State(Phase.CLOSED, NOON_MS + 60_000, why="the probe succeeded")
    assert await log(ledger) == [
        ("errors", "closed", "open", "spendfuse"),
        ("errors", "open", "half_open", "spendfuse"),
        ("errors", "half_open", "open", "spendfuse"),
        ("errors", "open", "half_open", "spendfuse"),
        ("errors", "half_open", "closed", "spendfuse"),
    ]


@contract
async def test_a_probe_that_is_given_up_leaves_its_place_at_once(harness: Harness) -> None:
    first, second = await harness.open(ALL), await harness.open(ALL)
    await opened(first)
    harness.clock.advance(ms=30_000)
    await first.take_probe([(ERRORS, GPT)], probe_id=1)
    assert state_of(await second.take_probe([(ERRORS, GPT)], probe_id=2), ERRORS).probe_id == 1
    await first.end_probe(ERRORS, GPT, probe_id=1, succeeded=None)
    assert state_of(await second.take_probe([(ERRORS, GPT)], probe_id=2), ERRORS).probe_id == 2


@contract
async def test_a_probe_of_a_dead_process_is_waited_for_no_longer_than_its_lease(harness: Harness) -> None:
    first, second = await harness.open(ALL), await harness.open(ALL)
    await opened(first)
    harness.clock.advance(ms=30_000)
    await first.take_probe([(ERRORS, GPT)], probe_id=1)
    harness.clock.advance(ms=PROBE_LEASE_MS - 1)
    await first.renew_probe([(ERRORS, GPT)], probe_id=1)
    harness.kill(first)
    harness.clock.advance(ms=PROBE_LEASE_MS - 1)
    assert state_of(await second.take_probe([(ERRORS, GPT)], probe_id=2), ERRORS).probe_id == 1
    harness.clock.advance(ms=1)
    assert state_of(await second.take_probe([(ERRORS, GPT)], probe_id=2), ERRORS).probe_id == 2
    assert state_of(await second.renew_probe([(ERRORS, GPT)], probe_id=1), ERRORS).probe_id == 2


@contract
async def test_a_call_is_the_probe_of_all_breakers_in_its_way_or_of_none(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    await opened(ledger, ERRORS)
    await opened(ledger, SLOW)
    both = [(ERRORS, GPT), (SLOW, GPT)]
    harness.clock.advance(ms=30_000)
    early = await ledger.take_probe(both, probe_id=1)
    assert [state_of(early, one).phase for one in (ERRORS, SLOW)] == [Phase.OPEN, Phase.OPEN]
    harness.clock.advance(ms=30_000)
    taken = await ledger.take_probe(both, probe_id=2)
    assert [state_of(taken, one).probe_id for one in (ERRORS, SLOW)] == [2, 2]


@contract
async def test_attempts_from_before_a_breaker_closed_do_not_count(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    await opened(ledger)
    await count(ledger, Counts(calls=100, errors=100))
    harness.clock.advance(ms=30_000)
    await ledger.take_probe([(ERRORS, GPT)], probe_id=1)
    await count(ledger, Counts(calls=100, errors=100))
    await ledger.end_probe(ERRORS, GPT, probe_id=1, succeeded=True)
    closed_ms = NOON_MS + 30_000
    assert (await count(ledger, Counts(calls=100, errors=100))).phase is Phase.CLOSED
    assert (await count(ledger, Counts(calls=19, errors=19), closed_since_ms=closed_ms)).phase is Phase.CLOSED
    assert (await count(ledger, Counts(calls=1, errors=1), closed_since_ms=closed_ms)).phase is Phase.OPEN


@contract
async def test_only_a_hand_closes_what_a_hand_opened_and_the_log_says_whose(harness: Harness) -> None:
    ledger, command = await harness.open(ALL), await harness.open_without_limits()
    await command.force_breaker(ERRORS, GPT, is_open=True, why="the vendor is down", who="ana")
    assert await stands(ledger, ERRORS) == State(Phase.FORCED_OPEN, NOON_MS, why="the vendor is down", who="ana")
    harness.clock.advance(ms=DAY_MS)
    assert (await count(ledger, Counts(calls=100))).phase is Phase.FORCED_OPEN
    assert state_of(await ledger.take_probe([(ERRORS, GPT)], probe_id=1), ERRORS).phase is Phase.FORCED_OPEN
    closed = await command.force_breaker(ERRORS, GPT, is_open=False, why="it is back", who="bo")
    assert state_of(closed, ERRORS) == State(Phase.CLOSED, NOON_MS + DAY_MS, why="it is back", who="bo")
    changes = await ledger.breaker_changes()
    assert [(one.number, one.at_ms, one.before, one.after, one.why, one.who) for one in changes] == [
        (1, NOON_MS, Phase.CLOSED, Phase.FORCED_OPEN, "the vendor is down", "ana"),
        (2, NOON_MS + DAY_MS, Phase.FORCED_OPEN, Phase.CLOSED, "it is back", "bo"),
    ]
    assert await ledger.breaker_changes(newest=1) == await ledger.breaker_changes(after=1) == changes[1:]
    assert (changes[0].breaker, changes[0].subject, changes[0].each) == ("errors", GPT, ("target",))


@contract
async def test_states_and_counts_outlive_every_process(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    await opened(ledger)
    await count(ledger, Counts(calls=19, errors=19), subject=CLAUDE)
    harness.kill(ledger)
    other = await harness.open(ALL)
    assert (await stands(other, ERRORS)).phase is Phase.OPEN
    assert (await count(other, Counts(calls=1, errors=1), subject=CLAUDE)).phase is Phase.OPEN


@contract
async def test_a_breaker_of_money_closes_once_its_cooldown_and_what_tripped_it_are_over(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    assert (await count(ledger, Counts(calls=1, cost=1_000), BURN, ALL_CALLS)).phase is Phase.CLOSED
    harness.clock.advance(ms=MINUTE_MS)
    assert (await count(ledger, Counts(calls=1, cost=1), BURN, ALL_CALLS)).phase is Phase.OPEN
    harness.clock.advance(ms=9 * MINUTE_MS)
    assert (await count(ledger, Counts(), BURN, ALL_CALLS)).phase is Phase.OPEN
    harness.clock.advance(ms=2 * MINUTE_MS)
    closed = await count(ledger, Counts(), BURN, ALL_CALLS)
    assert (closed.phase, closed.why) == (Phase.CLOSED, "what tripped it is over")


@contract
async def test_a_breaker_for_alerts_only_goes_on_counting_while_it_is_open(harness: Harness) -> None:
    ledger, quiet = await harness.open(ALL), replace(ERRORS, opens=False)
    await opened(ledger, quiet)
    harness.clock.advance(ms=MINUTE_MS)
    assert (await count(ledger, Counts(calls=100), quiet)).phase is Phase.OPEN
    assert (await count(ledger, Counts(calls=100), quiet)).phase is Phase.CLOSED


@contract
async def test_a_breaker_of_a_limit_is_open_while_the_limit_is_spent(harness: Harness) -> None:
    ledger, other = await harness.open(ALL, BY_USER), await harness.open(ALL, BY_USER)
    both = [SPEND, SPEND_EACH]
    assert (await ledger.follow_spent(both)).lines == ()
    await ledger.note_spent([SpentNote("all", "[]", 1_000, MIDNIGHT_MS), SpentNote("user", '["u1"]', 500, MIDNIGHT_MS)])
    states = await other.follow_spent(both)
    assert state_of(states, SPEND, ALL_CALLS) == State(
        Phase.OPEN, NOON_MS, closes_at_ms=MIDNIGHT_MS, why='limit "all" of $0.000001 is spent'
    )
    assert state_of(states, SPEND_EACH, '["u1"]').why == 'limit "user" (user=u1) of $0.0000005 is spent'
    await other.set_amount("all", "[]", 2_000)
    states = await ledger.follow_spent(both)
    assert state_of(states, SPEND, ALL_CALLS).phase is Phase.CLOSED
    assert state_of(states, SPEND_EACH, '["u1"]').phase is Phase.OPEN
    harness.clock.advance(ms=DAY_MS // 2)
    assert state_of(await ledger.follow_spent(both), SPEND_EACH, '["u1"]').phase is Phase.CLOSED
    assert [one[:3] for one in await log(ledger)] == [
        ("spend", "closed", "open"),
        ("spend-each", "closed", "open"),
        ("spend", "open", "closed"),
        ("spend-each", "open", "closed"),
    ]


@contract
async def test_a_breaker_of_a_limit_that_a_hand_has_closed_stays_closed_until_it_is_spent_anew(
    harness: Harness,
) -> None:
    ever = limit("all", 1_000, per=LIFETIME)
    ledger = await harness.open(ever)
    await ledger.note_spent([SpentNote("all", "[]", 1_000, None)])
    assert state_of(await ledger.follow_spent([SPEND]), SPEND, ALL_CALLS).phase is Phase.OPEN
    harness.clock.advance(ms=1_000)
    await ledger.force_breaker(SPEND, ALL_CALLS, is_open=False, why="let them", who="ana")
    await ledger.note_spent([SpentNote("all", "[]", 1_000, None)])
    assert state_of(await ledger.follow_spent([SPEND]), SPEND, ALL_CALLS).phase is Phase.CLOSED
    await ledger.set_amount("all", "[]", 1_500)
    harness.clock.advance(ms=1_000)
    await ledger.note_spent([SpentNote("all", "[]", 1_500, None)])
    assert state_of(await ledger.follow_spent([SPEND]), SPEND, ALL_CALLS).phase is Phase.OPEN


@contract
async def test_a_target_is_paused_for_as_long_as_it_asked_and_never_shorter(harness: Harness) -> None:
    ledger = await harness.open(ALL)
    paused = await ledger.pause_target("openai/gpt", ms=20_000, why="slow down")
    until_ms = NOON_MS + 20_000
    assert state_of(paused, PAUSE) == State(Phase.OPEN, NOON_MS, closes_at_ms=until_ms, why="slow down")
    shorter = await ledger.pause_target("openai/gpt", ms=5_000, why="again")
    assert state_of(shorter, PAUSE).closes_at_ms == until_ms
    assert state_of(await ledger.pause_target("openai/gpt", ms=30_000, why="again"), PAUSE).why == "again"
    assert await ledger.breaker_changes() == []


async def spend(ledger: Ledger, number: int, cost: int, *, user: str = "u1") -> None:
    """A call that cost so much, and as many output tokens."""
    await admitted(ledger, number, cost, labels={"user": user, "target": "openai/gpt"})
    await ledger.settle(rid(number), charge(cost))


@contract
async def test_what_usually_burns_is_the_mean_of_the_same_hour_of_the_days_before(harness: Harness) -> None:
    usual = Breaker("usual", Burn(times=4), each=("user",), over=Span(600_000))
    ledger = await harness.open(limit("all", 10**9))
    assert await ledger.baseline(usual) == {}
    harness.clock.advance(ms=10 * MINUTE_MS)
    await spend(ledger, 1, 600)
    await spend(ledger, 2, 1_200, user="u2")
    harness.clock.advance(ms=HOUR_MS)
    await spend(ledger, 3, 5_000)
    harness.clock.advance(ms=DAY_MS - HOUR_MS)
    await spend(ledger, 4, 1_800)
    assert await ledger.baseline(usual) == {'["u1"]': Counts(cost=100), '["u2"]': Counts(cost=200)}
    harness.clock.advance(ms=DAY_MS)
    # Of the last two days: $600 and $1,800 in that hour; the other one spent nothing the day before.
    assert await ledger.baseline(usual) == {'["u1"]': Counts(cost=200), '["u2"]': Counts(cost=100)}
    baseline = (await ledger.baseline(usual))['["u1"]']
    for cost, phase in ((800, Phase.CLOSED), (1, Phase.OPEN)):
        attempts = Attempts(usual, '["u1"]', counts=Counts(calls=1, cost=cost), baseline=baseline)
        assert state_of(await ledger.count_attempts([attempts]), usual, '["u1"]').phase is phase


@contract
async def test_what_drifts_is_compared_with_the_calls_of_the_time_before(harness: Harness) -> None:
    longer = Breaker("longer", Drift(Measure.OUTPUT_TOKENS, times=3, baseline_ms=DAY_MS), each=("target",))
    ledger = await harness.open(limit("all", 10**9))
    for number in range(1, 4):
        await spend(ledger, number, 100 * number)
    assert await ledger.baseline(longer) == {}
    harness.clock.advance(ms=HOUR_MS)
    assert await ledger.baseline(longer) == {GPT: Counts(calls=3, cost=600, output_tokens=600)}
    harness.clock.advance(ms=DAY_MS)
    assert await ledger.baseline(longer) == {}


@claim
async def test_the_log_can_neither_be_changed_nor_deleted(store_harness: StoreHarness) -> None:
    ledger = await store_harness.open(ALL)
    await opened(ledger)
    for statement in ("UPDATE breaker_change SET who = 'nobody'", "DELETE FROM breaker_change"):
        with pytest.raises(Exception, match="never"):
            await store_harness.rows(statement)
    assert len(await ledger.breaker_changes()) == 1
    await store_harness.close()


@claim
async def test_counts_whose_window_has_passed_are_gone(store_harness: StoreHarness) -> None:
    ledger = await store_harness.open(ALL)
    for subject in (GPT, CLAUDE):
        await count(ledger, Counts(calls=1), subject=subject)
    store_harness.clock.advance(ms=HOUR_MS)
    await count(ledger, Counts(calls=1))
    assert await store_harness.rows("SELECT subject, calls FROM breaker_count") == [(GPT, 1)]
    await store_harness.close()
