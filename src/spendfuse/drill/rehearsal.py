"""One scenario against one config: once through the gateway, and once straight to the providers, as the same clients
would go without Spendfuse.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, time
from functools import partial
from zoneinfo import ZoneInfo

from spendfuse.alerting.messages import Wording, title_of
from spendfuse.clock import FrozenClock
from spendfuse.config import Config
from spendfuse.core.alerts import AlertKind
from spendfuse.core.windows import MS_PER_S, NS_PER_MS
from spendfuse.drill.clients import Clients, Gated, Straight, Way
from spendfuse.drill.offers import Offers, offers_of
from spendfuse.drill.provider import SimulatedProviders
from spendfuse.drill.scenarios import Cast, Scenario
from spendfuse.drill.stage import OpenStage, Stage, rehearsed
from spendfuse.drill.tally import Refusal, Tally
from spendfuse.gate.requests import Caller
from spendfuse.pricing.sheet import Sheet
from spendfuse.simulator.pace import now_of
from spendfuse.simulator.virtual_time import VirtualLoop
from spendfuse.wire.openai_chat import OpenAIChat

KEYS_OF_ATTACK = 20
"""So many keys a drill has at least: those of the config, and some that anybody could have been given."""
_DRAIN_S = 60.0
_OUTBOX_S = 3.0
_NS_PER_S = 1_000_000_000
_S_PER_HOUR = 3_600
_STEPS = 100

Progress = Callable[[float], None]
"""Told the share of the work that is done."""


@dataclass(frozen=True, slots=True)
class Told:
    """An alert that would have gone out, so many seconds after the beginning."""

    after_s: float
    kind: str
    severity: str
    title: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a scenario. Money is nano-dollars, by the providers' own bill.

    `attempts` are those that the clients made until they were stopped for good, `attempted` what all of these would
    have cost. `charged` is what the ledger says of what got through: never less than was `billed`. `unprotected` is the
    whole bill without Spendfuse, of so many `unprotected_calls`.
    """

    scenario: Scenario
    span_s: float
    attempts: int
    attempted: int
    reached: int
    billed: int
    charged: int
    first_refusal: Refusal | None
    stopped: Refusal | None
    refusals: dict[str, int]
    alerts: tuple[Told, ...]
    unprotected_calls: int
    unprotected: int


@dataclass(frozen=True, slots=True)
class _Played:
    tally: Tally
    billed: int
    charged: int
    alerts: tuple[Told, ...]
    for_good: bool
    """Nobody could have got anything through any more."""


class Rehearsal:
    """Plays scenarios against one config, always at the same time: from midnight, in the config's time zone, of the day
    whose prices came with this version.
    """

    def __init__(self, config: Config, open_stage: OpenStage, *, seed: int) -> None:
        """
        Raises:
            ConfigInvalid: none of the config's models can be called.
        """
        self._config = rehearsed(config)
        self._open_stage = open_stage
        self._seed = seed
        day = Sheet.load().about.snapshot_date
        self.begins_at = datetime.combine(day, time(), ZoneInfo(config.timezone))
        self._begins_at_ns = int(self.begins_at.timestamp()) * _NS_PER_S
        self.offers: Offers = offers_of(self._config, FrozenClock(self._begins_at_ns), self.begins_at)

    def play(self, scenario: Scenario, *, hours: float | None, progress: Progress) -> Finding:
        """Rehearse one scenario for so many hours, by default its own."""
        span_s = (scenario.hours if hours is None else hours) * _S_PER_HOUR
        gated = self._run(scenario, span_s, lambda share: progress(share / 2), is_gated=True)
        straight = self._run(scenario, span_s, lambda share: progress((1 + share) / 2), is_gated=False)
        tally = gated.tally
        return Finding(
            scenario=scenario,
            span_s=span_s,
            attempts=tally.attempts,
            attempted=gated.billed + tally.refused_nanos,
            reached=tally.reached,
            billed=gated.billed,
            charged=gated.charged,
            first_refusal=tally.first,
            stopped=tally.stopped(for_good=gated.for_good, span_s=span_s),
            refusals=dict(tally.refused_by),
            alerts=gated.alerts,
            unprotected_calls=straight.tally.reached,
            unprotected=straight.billed,
        )

    def _run(self, scenario: Scenario, span_s: float, progress: Progress, *, is_gated: bool) -> _Played:
        clock = FrozenClock(self._begins_at_ns - int(scenario.ordinary_hours * _S_PER_HOUR) * _NS_PER_S)
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
            return runner.run(self._play(scenario, span_s, progress, clock, is_gated=is_gated))

    async def _play(
        self, scenario: Scenario, span_s: float, progress: Progress, clock: FrozenClock, *, is_gated: bool
    ) -> _Played:
        begins_at_s = self._begins_at_ns / _NS_PER_S
        tally = Tally(clock, begins_at_s)
        behaves = scenario.behaves(self._seed, starts_at_s=begins_at_s)
        providers = SimulatedProviders(self.offers.sold, clock, behaves, tally.note_reached)
        async with AsyncExitStack() as stack:
            stage: Stage | None = None
            way: Way = Straight(providers)
            if is_gated:
                stage = await stack.enter_async_context(self._open_stage(self._config, providers, clock))
                way = Gated(stage.gate, OpenAIChat(n_max=self._config.n_max), ends_at_s=begins_at_s + span_s)
            cast = self._cast(scenario, way, clock, ends_at_s=begins_at_s + span_s)
            cast.clients.on_attempt = partial(tally.note, providers)
            if clock.monotonic_s() < begins_at_s:
                # What is ordinary stays off the bill.
                loop = asyncio.get_running_loop()
                loop.call_later(begins_at_s - clock.monotonic_s(), providers.begin_bill)
            telling = asyncio.create_task(_tell(progress, begins_at_s, span_s, clock))
            await scenario.play(cast)
            telling.cancel()
            if clock.monotonic_s() < begins_at_s:
                providers.begin_bill()
            charged, alerts = (0, ()) if stage is None else await self._told(stage)
            progress(1.0)
            return _Played(
                tally=tally,
                billed=providers.bill.report(now_of(clock)).nanos,
                for_good=cast.is_done,
                charged=charged,
                alerts=alerts,
            )

    async def _told(self, stage: Stage) -> tuple[int, tuple[Told, ...]]:
        """What the ledger says was spent since the beginning, and the alerts since then."""
        shared, begins_at_ms = stage.shared, self._begins_at_ns // NS_PER_MS
        await shared.drain(_DRAIN_S)
        # What breakers did becomes an alert by the next step of the outbox.
        await asyncio.sleep(_OUTBOX_S)
        charged = sum(row.cost for row in await shared.ledger.spend("key", since_ms=begins_at_ms))
        wording = Wording(self._config.timezone, None)
        alerts = [
            Told(
                (stored.raised_at_ms - begins_at_ms) / MS_PER_S,
                stored.alert.kind.value,
                stored.alert.severity.value,
                title_of(stored.alert, wording),
            )
            for stored in await shared.ledger.alerts(begins_at_ms)
            if stored.alert.kind is not AlertKind.DIGEST and stored.raised_at_ms >= begins_at_ms
        ]
        return charged, tuple(alerts)

    def _cast(self, scenario: Scenario, way: Way, clock: FrozenClock, *, ends_at_s: float) -> Cast:
        rng = random.Random(f"{self._seed} {scenario.name}")  # noqa: S311 - it has to repeat
        return Cast(
            clients=Clients(way, rng),
            clock=clock,
            rng=rng,
            callers=callers_of(self._config),
            counted_by=sorted({name for limit in self._config.limits for name in limit.each}),
            required=sorted({name for limit in self._config.limits if limit.require for name in limit.each}),
            offers=self.offers,
            ends_at_s=ends_at_s,
        )


def callers_of(config: Config) -> tuple[Caller, ...]:
    """Whom calls can come from: the config's keys, and keys such as `spendfuse keys create` makes."""
    configured = [
        Caller(
            one.name,
            {**one.labels, "key": one.name},
            frozenset(one.labels_from),
            one.new_subjects_per_hour,
        )
        for one in config.keys
    ]
    made = [
        Caller(name, {"key": name}, new_subjects_per_hour=config.new_subjects_per_hour)
        for name in (f"drill-{number}" for number in range(1, KEYS_OF_ATTACK + 1))
    ]
    return tuple([*configured, *made][: max(KEYS_OF_ATTACK, len(configured))])


async def _tell(progress: Progress, begins_at_s: float, span_s: float, clock: FrozenClock) -> None:
    while True:
        await asyncio.sleep(span_s / _STEPS)
        progress(min(max(clock.monotonic_s() - begins_at_s, 0.0) / span_s, 1.0))
