"""Random histories: every engine agrees with the reference model after every step, and the invariants hold.

A failure names the seed that replays it.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable

import pytest
from ledger_harness import (
    DAY,
    LIFETIME,
    Harness,
    MemoryHarness,
    StoreHarness,
    charge,
    claim,
    demand,
    limit,
    quote,
    rid,
)

from spendfuse.core.decisions import Admitted, Fit
from spendfuse.core.errors import LedgerError
from spendfuse.core.labels import subject_values
from spendfuse.core.limits import Limit, Shadow, Unit
from spendfuse.core.windows import NS_PER_MS, Span
from spendfuse.ledger import verbs
from spendfuse.ledger.store import Demand, Ledger

STEPS = 50
CONFIGS: list[tuple[Limit, ...]] = [
    (
        limit("money", 500, per=DAY),
        limit("user", 200, each=("user",)),
        limit("tokens", 400, unit=Unit.TOKENS, per=Span(3_600_000), each=("feature",)),
        limit("rate", 6, unit=Unit.REQUESTS, per=Span(60_000), each=("user",)),
        limit("parallel", 4, unit=Unit.CONCURRENT, per=LIFETIME),
        limit("run", 150, per=LIFETIME, each=("run",)),
    ),
    (
        limit("money", 350, per=DAY),
        limit("user", 260, each=("user",)),
        limit("tokens", 400, unit=Unit.TOKENS, per=Span(3_600_000), each=("feature",), on_exceed=Shadow()),
        limit("calls", 30, unit=Unit.REQUESTS, per=DAY),
    ),
    (
        limit("money", 500, per=DAY),
        limit("user", 200, each=("user", "feature")),
        limit("tokens", 300, unit=Unit.TOKENS, per=Span(3_600_000), each=("feature",)),
        limit("only", 120, match={"feature": frozenset({"search"})}, fit=False),
        limit("rate", 3, unit=Unit.REQUESTS, per=Span(60_000), each=("user",)),
        limit("run", 150, per=LIFETIME, each=("run",)),
    ),
]
SUBJECTS = [("money", "[]"), ("user", '["u1"]'), ("tokens", '["search"]'), ("rate", '["u1"]'), ("run", '["r1"]')]
AMOUNTS = [None, 0, 2, 100, 300]
ENDS_MS = [None, 0, 1_000, 20_000, 600_000, 4_000_000]
AGES_MS = [-5_000, 0, 1_000, 600_000, 4_000_000, 43_200_000, 100_000_000]
Verb = Callable[[Ledger], Awaitable[object]]


@pytest.fixture(autouse=True)
def _refuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds older limits doesn't wait for newer ones, which nobody brings while it waits."""
    monkeypatch.setattr(verbs, "RELOAD_WAIT_S", 0.0)


class _History:
    """One seed's steps, taken on both engines."""

    def __init__(self, seed: int, store: StoreHarness) -> None:
        self.random = random.Random(seed)
        self.memory = MemoryHarness()
        self.store = store
        self.both: tuple[Harness, Harness] = (self.memory, self.store)
        self.owners: list[tuple[Ledger, Ledger]] = []
        self.limits = CONFIGS[0]
        self.last_id = 0
        self.entries: list[tuple[object, ...]] = []
        self.highest: dict[tuple[object, ...], int] = {}
        self.amounts: dict[str, int] = {}
        """The highest amount of each limit that was given one in this step, if only for a moment."""
        self.lifted: set[str] = set()
        """The limits that were out of force, or not enforced, in this step, if only for a moment."""

    async def open(self) -> None:
        memory, stored = [await one.open(*self.limits) for one in self.both]
        self.owners.append((memory, stored))

    async def step(self) -> None:
        dice = self.random.random()
        self.amounts.clear()
        self.lifted.clear()
        if dice < 0.06:
            self.limits = self.random.choice(CONFIGS)
            await self.open()
        elif dice < 0.09 and len(self.owners) > 1:
            dead = self.owners.pop(self.random.randrange(len(self.owners)))
            for harness, ledger in zip(self.both, dead, strict=True):
                harness.kill(ledger)
        elif dice < 0.12:
            for ledger in [one for pair in self.owners for one in pair]:
                await ledger.apply(self.limits)
        elif dice < 0.23:
            ms = self.random.choice([1_000, 20_000, 600_000, 4_000_000, 43_200_000])
            for harness in self.both:
                harness.clock.advance(ms=ms)
            if ms > 3_600_000:
                await keep_up(self.owners[-1][1])
        else:
            await self.act()

    async def act(self) -> None:
        """One to five verbs at once on one owner, the same on both engines, with the same outcomes."""
        several = [self.verb() for _ in range(self.random.randint(1, 5))]
        owner = self.random.choice(self.owners)
        outcomes = [await asyncio.gather(*[verb(one) for verb in several], return_exceptions=True) for one in owner]
        assert [_comparable(one) for one in outcomes[0]] == [_comparable(one) for one in outcomes[1]]

    def verb(self) -> Verb:
        chance, cap = self.random.random(), self.random.randint(1, 120)
        number = rid(self.random.randint(1, self.last_id + 1))
        spent = charge(self.random.randint(0, 140), input_tokens=self.random.randint(0, 20))
        if chance < 0.46:
            self.last_id += self.random.random() < 0.9
            asked = self.demand(max(1, self.last_id), cap)
            return lambda ledger: ledger.reserve(asked)
        if chance < 0.66:
            return lambda ledger: ledger.settle(number, spent)
        if chance < 0.75:
            return lambda ledger: ledger.void(number)
        if chance < 0.82:
            return lambda ledger: ledger.extend(number, quote=quote(5), cap=cap, deadline_s=60)
        if chance < 0.88:
            return lambda ledger: ledger.expire_due()
        if chance < 0.93:
            self.last_id = max(self.last_id, number)
            served, at_ms = self.demand(number, cap), self.now_ms() - self.random.choice(AGES_MS)
            return lambda ledger: ledger.record(served, spent, at_ms=at_ms)
        if chance < 0.94:
            return lambda ledger: ledger.clear_overrun("openai/gpt-4o")
        return self.applying() if chance < 0.96 else self.setting()

    def demand(self, number: int, cap: int) -> Demand:
        return demand(
            number,
            cap,
            input_tokens=self.random.randint(0, 20),
            useful=self.random.randint(0, cap),
            labels=self.labels(),
            fit=self.random.choice(list(Fit)),
            deadline_s=self.random.choice([1, 30, 900]),
            new_subjects=self.random.choice([1, 3, 6, 1_000]),
        )

    def applying(self) -> Verb:
        limits = self.limits = self.random.choice(CONFIGS)
        for one in limits:
            self.amounts[one.name] = max(one.amount, self.amounts.get(one.name, 0))
        enforced = {one.identity for one in limits if one.is_enforced}
        self.lifted |= {one.identity for config in CONFIGS for one in config} - enforced
        return lambda ledger: ledger.apply(limits)

    def setting(self) -> Verb:
        name, subject = self.random.choice(SUBJECTS)
        amount, ms = self.random.choice(AMOUNTS), self.random.choice(ENDS_MS)
        until_ms = None if ms is None else self.now_ms() + ms
        self.amounts[name] = max(amount or 0, self.amounts.get(name, 0))
        return lambda ledger: ledger.set_amount(name, subject, amount, until_ms=until_ms)

    def now_ms(self) -> int:
        return self.memory.clock.now_ns() // NS_PER_MS

    def labels(self) -> dict[str, str]:
        labels = {"feature": self.random.choice(["search", "chat"]), "key": self.random.choice(["app", "batch"])}
        if self.random.random() < 0.5:
            labels["target"] = "openai/gpt-4o"
        if self.random.random() < 0.8:
            labels["user"] = self.random.choice(["u1", "u2"])
        if self.random.random() < 0.5:
            labels["run"] = f"r{self.random.randint(1, 3)}"
        return labels

    async def check(self) -> None:
        memory, stored = self.owners[-1]
        lines = await memory.balances()
        assert sorted(lines, key=repr) == sorted(await stored.balances(), key=repr)
        assert await stored.audit() == [], "invariant 8"
        assert await memory.overruns() == await stored.overruns()
        alerts = [{one.alert.alert_id: one.alert for one in await ledger.alerts(0)} for ledger in (memory, stored)]
        assert alerts[0] == alerts[1], "invariant 16"
        for line in lines:
            assert len(subject_values(line.subject)) == len(line.each)
        since_ms = self.now_ms() - self.random.choice([10_000, 3_600_000, 10**9])
        for label in ("user", "run"):
            top = self.random.choice([None, 1, 2])
            rows = [await one.spend(label, since_ms=since_ms, top=top) for one in (memory, stored)]
            assert rows[0] == rows[1]
        await self.check_rows()

    async def check_rows(self) -> None:
        entries = await self.store.rows("SELECT * FROM entry ORDER BY written_at_ms, reservation_id, is_late")
        assert set(self.entries) <= set(entries), "invariant 14"
        self.entries = entries
        both = "SELECT count(*) FROM reservation JOIN entry USING (reservation_id)"
        assert await self.store.rows(both) == [(0,)], "invariant 5"
        rows = await self.store.rows(
            "SELECT identity, subject, window_no, amount, ceiling, settled, reserved, overrun"
            " FROM balance JOIN applied_limit USING (limit_id)"
        )
        before, self.highest = self.highest, {}
        for *key, amount, ceiling, settled, reserved, overrun in rows:
            assert min(settled, reserved) >= 0, "invariant 1"
            if ceiling is None:
                continue
            # A balance that opens at a fold, or leaves the shadow, starts with what was committed before.
            opened = ceiling - overrun if key[0] in self.lifted else before.get(tuple(key), ceiling - overrun)
            highest = max(amount, opened, self.amounts.get(json.loads(key[0])["name"], 0))
            self.highest[tuple(key)] = highest
            assert settled + reserved <= min(ceiling, highest + overrun), "invariant 3"

    async def close(self) -> None:
        for harness in self.both:
            await harness.close()


async def keep_up(ledger: Ledger) -> None:
    """All upkeep that is due: reports must be the same before and after it."""
    while await ledger.upkeep(None):
        pass


def _comparable(outcome: object) -> object:
    if isinstance(outcome, LedgerError):
        return type(outcome)
    assert not isinstance(outcome, BaseException), outcome
    return outcome


@pytest.mark.parametrize("seed", range(25))
@claim
async def test_every_engine_agrees_with_memory_on_every_random_history(seed: int, store_harness: StoreHarness) -> None:
    """Invariants 1, 3, 5, 6, 8, 9, 14 and 18."""
    history = _History(seed, store_harness)
    await history.open()
    try:
        for _ in range(STEPS):
            await history.step()
            await history.check()
    finally:
        await history.close()


@pytest.mark.parametrize("seed", range(10))
@claim
async def test_no_admission_exceeds_an_enforced_balance(seed: int, store_harness: StoreHarness) -> None:
    """Invariants 2 and 4: after an admission the call's balances hold no more than their amounts; after a refusal all
    balances are as before."""
    dice = random.Random(seed)
    limits = CONFIGS[2]
    ledger = await store_harness.open(*limits)
    history = _History(seed, store_harness)
    for number in range(1, 80):
        labels, cap = history.labels(), dice.randint(1, 90)
        before = await ledger.balances()
        outcome = await ledger.reserve(demand(number, cap, useful=dice.randint(0, cap), labels=labels))
        after = await ledger.balances()
        if isinstance(outcome, Admitted):
            touched = {(one.name, one.subject_of(labels)) for one in limits if one.covers(labels) and not one.is_rate}
            lines = {(line.limit_name, line.subject): line for line in after}
            assert all(lines[key].settled + lines[key].reserved <= lines[key].amount for key in touched)
            if dice.random() < 0.7:
                await ledger.settle(rid(number), charge(dice.randint(0, outcome.cap)))
        else:
            assert before == after
    await store_harness.close()
