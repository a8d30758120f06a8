"""Random histories of calls, providers, leaving clients and time, against tight limits; each repeats by its number."""

import asyncio
import random
from pathlib import Path

import pytest
from gate_harness import CHAT, MESSAGES, World, chat, config_of, messages, opened, run_frozen, spin, without_threads
from world_upstream import CLAUDE, Provider

from spendfuse.clock import FrozenClock

SEEDS, DISOBEYING_SEEDS, SQLITE_SEEDS = range(100), range(100, 130), range(130, 136)
STEPS = 60
LIMITS = """
  company: {usd: '0.004', per: hour}
  user-tokens: {tokens: 3000, per: hour, each: user}
  whole: {usd: '0.003', per: day, each: feature, fit: false}
  parallel: {concurrent: 3, each: user}
  rate: {requests: 20, per: minute, each: key}
  daily: {requests: 200, per: day}
  dear: {usd: '0.001', per: day, match: {model: [plain]}, on_exceed: {route_to: frugal}}
  watched: {usd: '0.0001', per: day, on_exceed: shadow}
"""
MORE = f"  haiku: anthropic/{CLAUDE}\nbusy_wait: 2s"


class History:
    """One seed's calls."""

    def __init__(self, world: World, seed: int, *, obeys_cap: bool) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.provider = Provider(self.dice, world.clock, obeys_cap)
        world.upstream.play = self.provider.play
        self.calls: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """All steps, each followed by the checks, and an orderly end."""
        for _ in range(STEPS):
            await self._step()
            await spin(self.dice.choice([0, 1, 2, 5, 20]))
            await self.check()
        for hold in self.provider.holds:
            hold.set()
        while any(not task.done() for task in self.calls.values()):
            await self.world.later(1_000)
            for number, task in list(self.calls.items()):
                if not task.done() and self.dice.random() < 0.2:
                    self._leave(number)
        await asyncio.gather(*self.calls.values(), return_exceptions=True)
        self.world.ledger.away.clear()
        await self._ends()
        await self.check()

    async def check(self) -> None:
        """What has to hold at every moment."""
        overruns = sum(entry.overrun_cost for one in self.world.reservations for entry in one.entries)
        for line in await self.world.ledger.balances():
            assert line.settled >= 0 and line.reserved >= 0, line
            if line.is_enforced and (self.provider.obeys_cap or line.unit in ("requests", "concurrent")):
                assert line.settled + line.reserved <= line.amount, line
            elif line.is_enforced and line.unit == "usd" and self.world.store.reservations:
                assert line.settled + line.reserved <= line.amount + overruns, line
        assert await self.world.ledger.audit() == []
        if self.provider.obeys_cap:
            billed_nanos = self.provider.bill_nanos
            ((_, settled, reserved),) = await self.world.committed("everything")
            assert billed_nanos <= settled + reserved

    async def _step(self) -> None:
        roll = self.dice.random()
        if roll < 0.45:
            self._begin()
        elif roll < 0.65:
            self._release()
        elif roll < 0.78 and self.calls:
            self._leave(self.dice.choice(list(self.calls)))
        elif roll < 0.93:
            await self.world.leap(self.dice.choice([1, 100, 2_000, 30_000, 700_000, 3_600_000]))
        elif roll < 0.97:
            await self.world.ledger.expire_due()
        else:
            self.world.ledger.away[self.dice.choice(["reserve", "settle", "void", "extend"])] = self.dice.randint(1, 3)

    def _begin(self) -> None:
        number = len(self.calls)
        model, dialect = self.dice.choice(
            [("plain", CHAT), ("gpt-4o-mini", CHAT), ("haiku", CHAT), ("haiku", MESSAGES)]
        )
        if dialect is MESSAGES:
            body = messages(model, metadata={"user_id": str(number)})
        else:
            body = chat(model, user=str(number))
        body["stream"] = self.dice.random() < 0.5
        cap = self.dice.choice([None, 10, 200, 600, 10_000])
        if cap is not None:
            body["max_tokens"] = cap
        labels = {"user": self.dice.choice("ab"), "feature": self.dice.choice("xy")}
        self.calls[number], _ = self.world.begin(body, claimed=labels, dialect=dialect)

    def _release(self) -> None:
        waiting = [hold for hold in self.provider.holds if not hold.is_set()]
        for hold in self.dice.sample(waiting, min(len(waiting), self.dice.randint(1, 3))):
            hold.set()

    def _leave(self, number: int) -> None:
        if not self.calls[number].done():
            self.calls[number].cancel()
            self.provider.end(number)

    async def _ends(self) -> None:
        """Wait for the ends of reservations, some of which wait for the store to be tried again."""
        draining = asyncio.create_task(self.world.shared.drain(3_600))
        while not draining.done():
            await self.world.later(1_000)
        await draining


def _run(seed: int, *, obeys_cap: bool = True, sqlite: Path | None = None) -> None:
    async def over_a_world(clock: FrozenClock) -> None:
        async with opened(clock, config_of(LIMITS, MORE), sqlite=sqlite) as world:
            history = History(world, seed, obeys_cap=obeys_cap)
            await history.run()
            if sqlite is None:
                await _check_ends(world)

    try:
        run_frozen(over_a_world)
    except Exception as error:
        raise AssertionError(f"history {seed}: {error!r}") from error


async def _check_ends(world: World) -> None:
    assert world.upstream.open == 0
    assert all(1 <= len(one.entries) <= 2 for one in world.reservations)
    assert all(one.entries[0].kind.name != "LATE" for one in world.reservations)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_balance_is_overdrawn_and_no_bill_is_missed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_threads(monkeypatch)
    _run(seed)


@pytest.mark.parametrize("seed", DISOBEYING_SEEDS)
def test_a_provider_that_ignores_caps_costs_no_more_than_its_recorded_overruns(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_threads(monkeypatch)
    _run(seed, obeys_cap=False)


@pytest.mark.parametrize("seed", SQLITE_SEEDS)
def test_the_same_holds_over_sqlite_whose_balances_are_their_fold(seed: int, tmp_path: Path) -> None:
    _run(seed, sqlite=tmp_path / "ledger.db")
