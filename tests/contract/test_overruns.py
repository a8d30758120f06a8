"""Charges above their quotes multiply the later quotes of their target, on every engine."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest
from ledger_harness import NOON_NS, Harness, admitted, charge, claim, contract, limit, rid

from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.money import Nanos
from spendfuse.ledger.endings import OVERRUN_PERCENT_MAX
from spendfuse.ledger.following import Follower
from spendfuse.ledger.store import Ledger, TargetOverrun, Topic

NOON_MS = NOON_NS // 10**6
TARGET = "openai/gpt-4o"
BY_TARGET = {"user": "u1", "target": TARGET}


async def settled(ledger: Ledger, number: int, *, held: int, cost: int, target: str | None = TARGET) -> None:
    """A call that was quoted at `held` nano-dollars and cost `cost`."""
    await admitted(ledger, number, held, labels={"user": "u1"} if target is None else {"target": target})
    await ledger.settle(rid(number), charge(cost))


async def percents(ledger: Ledger) -> dict[str, int]:
    return {one.target: one.percent for one in await ledger.overruns()}


@pytest.mark.parametrize(
    ("held", "cost", "percent"), [(100, 101, 101), (100, 250, 250), (3, 4, 134), (100, 10_000, OVERRUN_PERCENT_MAX)]
)
@contract
async def test_an_overrun_raises_its_target_to_what_would_have_covered_it(
    harness: Harness, held: int, cost: int, percent: int
) -> None:
    ledger = await harness.open(limit("all", 10**6))
    await settled(ledger, 1, held=held, cost=cost)
    assert await ledger.overruns() == [TargetOverrun(TARGET, percent, NOON_MS)]


@contract
async def test_a_charge_within_its_quote_or_of_no_target_raises_nothing(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    await settled(ledger, 1, held=100, cost=100)
    await settled(ledger, 2, held=100, cost=900, target=None)
    assert await ledger.overruns() == []


@contract
async def test_a_charge_of_what_was_quoted_at_nothing_raises_to_the_most(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    await settled(ledger, 1, held=0, cost=1)
    assert await percents(ledger) == {TARGET: OVERRUN_PERCENT_MAX}


@contract
async def test_a_lesser_overrun_changes_nothing_and_targets_are_told_apart(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    await settled(ledger, 1, held=100, cost=300)
    revision = (await ledger.revisions())[Topic.OVERRUNS]
    harness.clock.advance(ms=10)
    await settled(ledger, 2, held=100, cost=120)
    assert (await ledger.revisions())[Topic.OVERRUNS] == revision
    await settled(ledger, 3, held=100, cost=120, target="other/model")
    assert await ledger.overruns() == [
        TargetOverrun(TARGET, 300, NOON_MS),
        TargetOverrun("other/model", 120, NOON_MS + 10),
    ]


@contract
async def test_calls_in_flight_at_an_overrun_are_not_multiplied_upon_it(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    for number in (1, 2):
        await admitted(ledger, number, 100, labels=BY_TARGET)
    await ledger.settle(rid(1), charge(150))
    await ledger.settle(rid(2), charge(150))
    assert await percents(ledger) == {TARGET: 150}


@contract
async def test_an_overrun_of_a_quote_that_was_multiplied_raises_it_further(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    await settled(ledger, 1, held=100, cost=150)
    harness.clock.advance(ms=1_000)
    await settled(ledger, 2, held=150, cost=180)
    assert await percents(ledger) == {TARGET: 180}


@contract
async def test_a_late_charge_above_the_quote_counts_as_any_other(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    await admitted(ledger, 1, 100, labels=BY_TARGET, deadline_s=1)
    await admitted(ledger, 2, 100, labels={**BY_TARGET, "target": "other/model"})
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    await ledger.void(rid(2))
    assert await ledger.overruns() == []
    await ledger.settle(rid(1), charge(170))
    await ledger.settle(rid(2), charge(130))
    assert await percents(ledger) == {TARGET: 170, "other/model": 130}


@contract
async def test_repeating_a_settle_raises_once(harness: Harness) -> None:
    """Invariant 6."""
    ledger = await harness.open(limit("all", 10**6))
    await settled(ledger, 1, held=100, cost=150)
    await ledger.clear_overrun(TARGET)
    await ledger.settle(rid(1), charge(150))
    assert await ledger.overruns() == []


@contract
async def test_an_overrun_stays_until_it_is_cleared_from_any_process(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    await settled(ledger, 1, held=100, cost=150)
    await ledger.close()
    other, command = await harness.open(limit("all", 10**6)), await harness.open_without_limits()
    assert await percents(other) == {TARGET: 150}
    before = (await other.revisions())[Topic.OVERRUNS]
    assert await command.clear_overrun(TARGET)
    assert not await command.clear_overrun(TARGET)
    assert await other.overruns() == []
    assert (await other.revisions())[Topic.OVERRUNS] == before + 1
    await settled(other, 2, held=100, cost=110)
    assert await percents(other) == {TARGET: 110}


@contract
async def test_several_overruns_in_one_batch_raise_to_the_largest(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 10**6))
    for number in range(1, 6):
        await admitted(ledger, number, 100, labels=BY_TARGET)
    charges = [replace(charge(0), cost=Nanos(100 + 10 * number)) for number in (3, 5, 1, 4, 2)]
    await asyncio.gather(*[ledger.settle(rid(n), one) for n, one in enumerate(charges, 1)])
    assert await percents(ledger) == {TARGET: 150}


class _Store:
    """Revisions and loads as a test says."""

    def __init__(self) -> None:
        self.numbers = {Topic.KEYS: 0, Topic.OVERRUNS: 0}
        self.loads: list[str] = []
        self.is_away = False
        self.failures = 0

    async def revisions(self) -> Mapping[Topic, int]:
        return dict(self.numbers)

    async def load_keys(self) -> None:
        if self.is_away:
            self.failures += 1
            raise LedgerUnavailable("away")
        self.loads.append("keys")

    async def load_overruns(self) -> None:
        self.loads.append("overruns")


def _follower(store: _Store, interval_s: float = 0.001) -> Follower:
    loads = {Topic.KEYS: store.load_keys, Topic.OVERRUNS: store.load_overruns}
    return Follower(store, loads, interval_s=interval_s)  # type: ignore[arg-type]


@claim
async def test_a_follower_loads_what_changed_and_only_that() -> None:
    store = _Store()
    follower = _follower(store)
    await follower.refresh()
    await follower.refresh()
    store.numbers[Topic.OVERRUNS] = 7
    await follower.refresh()
    assert store.loads == ["keys", "overruns", "overruns"]


@claim
async def test_a_follower_misses_no_change_that_it_could_not_load() -> None:
    store = _Store()
    follower = _follower(store)
    await follower.refresh()
    store.numbers[Topic.KEYS], store.is_away = 1, True
    with pytest.raises(LedgerUnavailable):
        await follower.refresh()
    running = asyncio.create_task(follower.run())
    while store.failures < 3:
        await asyncio.sleep(0.001)
    assert store.loads == ["keys", "overruns"]
    store.is_away = False
    while store.loads[2:] != ["keys"]:
        await asyncio.sleep(0.001)
    running.cancel()
