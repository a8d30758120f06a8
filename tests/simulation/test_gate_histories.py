"""Random histories of calls, providers, leaving clients and time, against tight limits; each repeats by its number."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gate_harness import CHAT, MESSAGES, World, chat, config_of, messages, opened, run_frozen, spin, without_threads
from scripted_upstream import (
    DONE,
    Play,
    Step,
    answer,
    claude_answer,
    claude_delta,
    claude_end,
    claude_start,
    counted,
    delta,
    ended,
    failing,
    is_count,
    stream,
    used,
    words,
)

from spendfuse.clock import FrozenClock
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamRequest, UpstreamTimeout

SEEDS, DISOBEYING_SEEDS, SQLITE_SEEDS = range(100), range(100, 130), range(130, 136)
STEPS = 60
INPUT_TOKENS = 8
GENERATED_PER_S = 1_000
CLAUDE = "claude-3-haiku-20240307"
PRICES = {"llama": (1_000, 2_000), "tiny": (100, 200), "gpt-4o-mini": (150, 600), CLAUDE: (250, 1_250)}
"""Nano-dollars a token, by the provider's names: input, output."""
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
KINDS = ("exact", "null usage", "broken", "voided", "charged", "never sent", "stream", "open stream", "cut stream")


@dataclass(slots=True)
class Exchange:
    """One call as its provider sees it, and what it bills."""

    model: str
    wanted: int
    started_ns: int
    is_stream: bool
    delivered: int = 0
    billed_nanos: int = 0
    is_over: bool = False

    @property
    def is_claude(self) -> bool:
        return self.model == CLAUDE


@dataclass(slots=True)
class Provider:
    """Keeps its own bill: exactly what it generated, which is at most what DESIGN assumes of an honest provider."""

    dice: random.Random
    clock: FrozenClock
    obeys_cap: bool
    exchanges: dict[int, Exchange] = field(default_factory=dict[int, Exchange])
    holds: list[asyncio.Event] = field(default_factory=list[asyncio.Event])

    @property
    def bill_nanos(self) -> int:
        return sum(one.billed_nanos for one in self.exchanges.values())

    def play(self, request: UpstreamRequest) -> Play:
        """What the next call, or count of one, meets."""
        if is_count(request):
            return failing(529) if self.dice.random() < 0.2 else counted(INPUT_TOKENS)
        body = json.loads(request.body)
        kind, cap = self.dice.choice(KINDS), body["max_completion_tokens" if "gpt" in body["model"] else "max_tokens"]
        wanted = self.dice.randint(0, cap if self.obeys_cap else 3 * cap)
        number = _number_of(body)
        is_free = kind in ("never sent", "voided")
        self.exchanges[number] = Exchange(
            body["model"], wanted, self.clock.now_ns(), is_stream=body.get("stream", False), is_over=is_free
        )
        if kind == "never sent":
            return Play(before_head=[self._hold(), NeverSent("refused")])
        if kind == "voided":
            return failing(self.dice.choice([400, 429, 500, 503]), before_head=[self._hold()])
        if body.get("stream") and "stream" in kind:
            return self._stream(kind, number, wanted)
        return self._whole(kind, number, wanted)

    def end(self, number: int) -> None:
        """Bill a call for what was made by now; afterwards nothing more."""
        exchange = self.exchanges.get(number)
        if exchange is None or exchange.is_over:
            return
        elapsed_ms = (self.clock.now_ns() - exchange.started_ns) // 10**6
        made = min(exchange.wanted, elapsed_ms * GENERATED_PER_S // 1_000)
        self._bill(exchange, exchange.delivered if exchange.delivered else 0 if exchange.is_stream else made)

    def _bill(self, exchange: Exchange, output_tokens: int) -> None:
        input_nanos, output_nanos = PRICES[exchange.model]
        exchange.billed_nanos = INPUT_TOKENS * input_nanos + output_tokens * output_nanos
        exchange.is_over = True

    def _whole(self, kind: str, number: int, wanted: int) -> Play:
        exchange = self.exchanges[number]
        unknown: list[Step] = [self._hold(), lambda: self.end(number)]
        if kind == "broken":
            return Play(before_head=[*unknown, self.dice.choice([FateUnknown("reset"), UpstreamTimeout("silent")])])
        if kind == "charged":
            return failing(504, before_head=unknown)
        if kind == "null usage" and self.obeys_cap:
            return Play([*unknown, claude_answer(used=None) if exchange.is_claude else answer(used=None)])
        # Billed in full only once it was read: before, it has made no more than its rate allows.
        body = (claude_answer if exchange.is_claude else answer)(wanted, input_tokens=INPUT_TOKENS)
        return Play([self._hold(), body, lambda: self._bill(exchange, wanted)])

    def _stream(self, kind: str, number: int, wanted: int) -> Play:
        exchange = self.exchanges[number]
        is_claude = exchange.is_claude
        steps: list[Step] = []
        left = wanted
        while left:
            piece = min(left, self.dice.randint(1, 100))
            left -= piece
            # Billed only once it was handed over: a client that leaves first has not been served it.
            shown = (claude_delta if is_claude else delta)(words(piece))
            steps += [shown, self._delivery(exchange, piece)]
        for _ in range(3):
            steps.insert(self.dice.randint(0, len(steps)), self._hold())
        if is_claude:
            steps.insert(0, claude_start(INPUT_TOKENS))
        if kind == "open stream":
            return stream(*steps, asyncio.Event())
        over: Step = lambda: self.end(number)  # noqa: E731
        if kind == "cut stream":
            return stream(*steps, over, FateUnknown("reset"))
        says_usage = self.dice.random() < 0.7
        if is_claude:
            return stream(*steps, over, claude_end(wanted if says_usage else None))
        usage = [used(INPUT_TOKENS, wanted)] if says_usage else []
        return stream(*steps, over, ended(), *usage, DONE)

    def _delivery(self, exchange: Exchange, tokens: int) -> Callable[[], None]:
        def deliver() -> None:
            exchange.delivered += tokens

        return deliver

    def _hold(self) -> asyncio.Event:
        hold = asyncio.Event()
        if self.dice.random() < 0.4:
            hold.set()
        self.holds.append(hold)
        return hold


def _number_of(body: dict[str, Any]) -> int:
    """The number of a call: its user in the body, which the header's beats as a label."""
    return int(body["metadata"]["user_id"] if "metadata" in body else body["user"])


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
            self.world.clock.advance(ms=self.dice.choice([1, 100, 2_000, 30_000, 700_000, 3_600_000]))
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
