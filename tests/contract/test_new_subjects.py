"""How many new subjects a key's calls may open in an hour, on every engine."""

import asyncio
from collections.abc import Mapping

import pytest
from ledger_harness import (
    DAY,
    LIFETIME,
    NOON_NS,
    Harness,
    StoreHarness,
    admitted,
    charge,
    claim,
    committed,
    contract,
    demand,
    limit,
    refused,
    rid,
)

from spendfuse.core.decisions import Admitted, Refused, Shortfall
from spendfuse.core.limits import Limit, Shadow, Unit
from spendfuse.core.windows import Span
from spendfuse.ledger.store import Ledger

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
USER_MONEY = limit("user-money", 1_000, each=("user",))
USER_RATE = limit("user-rate", 100, unit=Unit.REQUESTS, per=Span(60_000), each=("user",))
USER_DAY = limit("user-day", 1_000, per=DAY, each=("user",))


def by(user: str, key: str = "app", **labels: str) -> Mapping[str, str]:
    return {"key": key, "user": user, **labels}


class Calls:
    """Calls of numbered ids on one ledger, each under a bound of three new subjects."""

    def __init__(self, ledger: Ledger, first: int = 1, bound: int = 3) -> None:
        self._ledger = ledger
        self._number = first - 1
        self._bound = bound

    async def admit(self, *callers: Mapping[str, str]) -> None:
        for labels in callers:
            self._number += 1
            await admitted(self._ledger, self._number, 1, labels=labels, new_subjects=self._bound)

    async def refuse(self, labels: Mapping[str, str]) -> Refused:
        self._number += 1
        outcome = await refused(self._ledger, self._number, 1, labels=labels, new_subjects=self._bound)
        assert outcome.shortfall is Shortfall.RATE
        assert all(reason.opens for reason in outcome.reasons)
        return outcome


@pytest.mark.parametrize("of_user", [USER_MONEY, USER_RATE, USER_DAY], ids=lambda one: one.name)
@contract
async def test_a_key_opens_so_many_subjects_an_hour_while_known_ones_go_on(harness: Harness, of_user: Limit) -> None:
    calls = Calls(await harness.open(of_user))
    await calls.admit(by("u1"), by("u2"), by("u3"))
    await calls.refuse(by("u4"))
    await calls.admit(by("u1"), by("u3"))
    await calls.refuse(by("u4"))
    harness.clock.advance(ms=HOUR_MS)
    await calls.admit(by("u1"), by("u4"), by("u5"), by("u6"))
    await calls.refuse(by("u7"))


@contract
async def test_a_refusal_for_a_new_subject_says_so_and_changes_nothing(harness: Harness) -> None:
    """Invariant 4."""
    all_calls = limit("all", 1_000)
    harness.clock.advance(ms=90_000)
    ledger = await harness.open(all_calls, USER_MONEY, USER_RATE)
    calls = Calls(ledger)
    await calls.admit(by("u1"), by("u2"), by("u3"))
    before = await ledger.balances()
    (reason,) = (await calls.refuse(by("u4"))).reasons
    assert await ledger.balances() == before
    assert (reason.limit.name, reason.pairs, reason.amount, reason.left, reason.need) == (
        "new_subjects",
        (("key", "app"),),
        3,
        0,
        1,
    )
    assert reason.retry_at_ms == reason.resets_at_ms == NOON_NS // 10**6 + HOUR_MS
    assert reason.describe() == 'limit "new_subjects" (key=app): 3 per 1h, 0 left, call opens 1: user=u4'


@contract
async def test_every_key_has_a_bound_of_its_own(harness: Harness) -> None:
    calls = Calls(await harness.open(USER_MONEY))
    await calls.admit(by("u1"), by("u2"), by("u3"))
    await calls.refuse(by("u4", "app"))
    await calls.admit(by("u4", "batch"), by("u4", "app"))


@contract
async def test_the_bound_holds_over_all_processes(harness: Harness) -> None:
    ledgers = [await harness.open(USER_MONEY) for _ in range(3)]
    asked = [
        ledgers[number % 3].reserve(demand(number, 1, labels=by(f"u{number}"), new_subjects=7))
        for number in range(1, 31)
    ]
    outcomes = await asyncio.gather(*asked)
    assert sum(isinstance(one, Admitted) for one in outcomes) == 7


@contract
async def test_a_subject_counts_once_however_many_limits_have_it(harness: Harness) -> None:
    pair = limit("pair", 1_000, each=("user", "feature"))
    calls = Calls(await harness.open(USER_MONEY, USER_RATE, USER_DAY, pair))
    await calls.admit(by("u1", feature="chat"), by("u1", feature="search"))
    (reason,) = (await calls.refuse(by("u2", feature="chat"))).reasons
    assert (reason.left, reason.opens) == (0, ((("user",), '["u2"]'), (("user", "feature"), '["u2","chat"]')))


UNCOUNTED = [
    limit("all", 1_000),
    limit("model", 1_000, each=("key", "model")),
    limit("loop", 30, unit=Unit.REQUESTS, per=Span(300_000), each=("user", "fingerprint")),
    limit("shadow", 1_000, each=("user",), on_exceed=Shadow()),
    limit("elsewhere", 1_000, each=("user",), match={"feature": frozenset({"search"})}),
]


@pytest.mark.parametrize("uncounted", UNCOUNTED, ids=lambda one: one.name)
@contract
async def test_what_no_call_can_make_up_or_no_limit_enforces_is_not_counted(harness: Harness, uncounted: Limit) -> None:
    calls = Calls(await harness.open(uncounted))
    await calls.admit(*[by(f"u{n}", model=f"m{n}", fingerprint=f"f{n}") for n in range(10)])


@contract
async def test_a_shadow_limit_that_becomes_enforced_knows_its_subjects(harness: Harness) -> None:
    calls = Calls(await harness.open(limit("user-money", 1_000, each=("user",), on_exceed=Shadow())))
    await calls.admit(*[by(f"u{n}") for n in range(10)])
    calls = Calls(await harness.open(USER_MONEY), first=100)
    await calls.admit(*[by(f"u{n}") for n in range(13)])
    await calls.refuse(by("u13"))


@pytest.mark.parametrize("later", [USER_RATE, USER_DAY, limit("user-life", 1_000, per=LIFETIME, each=("user",))])
@contract
async def test_a_limit_that_comes_later_knows_who_called_before(harness: Harness, later: Limit) -> None:
    calls = Calls(await harness.open(limit("all", 1_000)))
    await calls.admit(*[by(f"u{n}") for n in range(10)])
    harness.clock.advance(ms=2 * DAY_MS)
    calls = Calls(await harness.open(limit("all", 1_000), later), first=100)
    await calls.admit(*[by(f"u{n}") for n in range(13)])
    await calls.refuse(by("u13"))


@contract
async def test_a_limit_that_counts_by_run_knows_the_runs_of_its_window(harness: Harness) -> None:
    calls = Calls(await harness.open(limit("all", 1_000)))
    await calls.admit(*[by("u1", run=f"r{n}") for n in range(5)])
    calls = Calls(await harness.open(limit("run", 1_000, per=DAY, each=("run",))), first=100)
    await calls.admit(*[by("u1", run=f"r{n}") for n in range(8)])
    await calls.refuse(by("u1", run="r8"))


@contract
async def test_subjects_stay_known_over_windows_idle_rates_and_restarts(harness: Harness) -> None:
    limits = (USER_RATE, USER_DAY)
    ledger = await harness.open(*limits)
    known = [by("u1"), by("u2"), by("u3")]
    await Calls(ledger).admit(*known)
    for round_ in range(1, 4):
        harness.clock.advance(ms=DAY_MS)
        await ledger.expire_due()
        await Calls(ledger, first=round_ * 100, bound=1).admit(*known)
        ledger = await harness.open(*limits)
        await Calls(ledger, first=round_ * 100 + 50, bound=1).admit(*known)


@contract
async def test_a_subject_with_an_amount_of_its_own_is_known(harness: Harness) -> None:
    ledger = await harness.open(USER_MONEY)
    calls = Calls(ledger)
    await calls.admit(by("u1"), by("u2"), by("u3"))
    await calls.refuse(by("vip"))
    await ledger.set_amount("user-money", '["vip"]', 5_000)
    await calls.admit(by("vip"))


@contract
async def test_a_refused_call_leaves_its_subject_new(harness: Harness) -> None:
    ledger = await harness.open(USER_MONEY)
    for number in range(1, 10):
        await refused(ledger, number, 2_000, labels=by(f"u{number}"), new_subjects=3)
    calls = Calls(ledger, first=10)
    await calls.admit(by("u1"), by("u2"), by("u3"))
    await calls.refuse(by("u4"))


@contract
async def test_repeating_a_reserve_opens_its_subject_once(harness: Harness) -> None:
    """Invariant 6."""
    ledger = await harness.open(USER_MONEY)
    first = [ledger.reserve(demand(1, 1, labels=by("u1"), new_subjects=2)) for _ in range(5)]
    assert all(isinstance(one, Admitted) for one in await asyncio.gather(*first))
    await Calls(ledger, first=2, bound=2).admit(by("u2"))
    await ledger.settle(rid(1), charge(1))
    assert await committed(ledger, "user-money", '["u1"]') == (1, 0)


@contract
async def test_a_call_that_waits_for_room_is_refused_once_its_key_opens_no_more(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 100), USER_MONEY)
    await admitted(ledger, 1, 100, labels=by("u1"), new_subjects=1)
    waiting = asyncio.create_task(ledger.reserve(demand(2, 50, labels=by("u2"), new_subjects=1), wait_s=5))
    await asyncio.sleep(0)
    await ledger.settle(rid(1), charge(10))
    outcome = await waiting
    assert isinstance(outcome, Refused) and outcome.reasons[0].opens


@claim
async def test_the_hours_that_are_over_are_purged(store_harness: StoreHarness) -> None:
    harness = store_harness
    ledger = await harness.open(USER_MONEY)
    for hour in range(3):
        await Calls(ledger, first=1 + hour).admit(by(f"u{hour}"))
        harness.clock.advance(ms=HOUR_MS)
    await Calls(ledger, first=10).admit(by("u9"))
    await ledger.expire_due()
    assert await harness.rows("SELECT * FROM opened_subjects") == [("app", NOON_NS // 10**6 + 3 * HOUR_MS, 1)]
    await harness.close()
