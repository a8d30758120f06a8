"""One simulated process: an event loop of its own, with the real ledger, keeper and gate as `wiring` joins them."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gate_harness import Client, InlineSpool, gate_over
from world_engine import FaultyEngine
from world_loop import SteppedLoop
from world_upstream import ProcessUpstream

from spendfuse.clock import FrozenClock
from spendfuse.config import Config
from spendfuse.gate.gate import Gate
from spendfuse.gate.requests import Request
from spendfuse.gate.shared import Shared
from spendfuse.ledger.following import Follower
from spendfuse.ledger.keeper import Keeper
from spendfuse.ledger.store import Topic
from spendfuse.ledger.verbs import BatchingLedger

DRAIN_S = 30.0
T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One call of a client."""

    number: int
    process: "Process"
    client: Client
    task: "asyncio.Task[None]"
    is_same_dialect: bool

    @property
    def is_over(self) -> bool:
        return self.task.done()


class MortalSpool(InlineSpool):
    """A spool whose process can die, between any two things that it does with the disk."""

    is_dead = False

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        await asyncio.sleep(0)
        if self.is_dead:
            raise asyncio.CancelledError
        return work(*args)

    def die(self) -> None:
        """From now on it writes nothing; the kernel gives up its locks."""
        self.is_dead = True
        for file in self._files():
            file.close()


class Process:
    """Serves calls until it is killed or has drained."""

    def __init__(
        self,
        number: int,
        *,
        config: Config,
        engine: FaultyEngine,
        spool: Path,
        upstream: ProcessUpstream,
        clock: FrozenClock,
    ) -> None:
        self.number = number
        self.config = config
        self.engine = engine
        self.loop = SteppedLoop(clock)
        self.is_stalled = False
        self.is_draining = False
        self.has_left = False
        self.has_lost_lease = False
        self._owner_id = engine.owner_id
        self.is_fit_since_ns: int | None = None
        """Since when neither the store nor the world has kept its keeper from running."""
        self.renewed_at_ns = clock.now_ns()
        self._clock = clock
        self._upstream = upstream
        self._spool_folder = spool
        self._spool: MortalSpool
        self.ledger: BatchingLedger
        self.gate: Gate
        self._shared: Shared
        self._keeper: Keeper
        self._reloading: asyncio.Task[Any] | None = None
        self._beside: list[asyncio.Task[None]] = []
        self._boot = self.loop.create_task(self._start())
        self.loop.run()
        self._boot.result()

    async def _start(self) -> None:
        self.ledger = BatchingLedger(self.engine)
        self.ledger.start()
        self._spool = MortalSpool(self.ledger, self._spool_folder, store="simulated")
        self._spool.start()
        self._shared = shared = Shared(self.ledger, self._spool, self._upstream, self._clock)
        self.gate = gate_over(self.config, shared)
        follower = Follower(self.ledger, {Topic.OVERRUNS: shared.overruns.load})
        await follower.refresh()
        self._keeper = Keeper(self.ledger)
        self._keeper.start()
        self._beside = [self.loop.create_task(one) for one in (follower.run(), shared.refusals.run())]

    @property
    def owner_id(self) -> int:
        return self.engine.owner_id

    def note_health(self, now_ns: int) -> None:
        """Whether its keeper could do its work at this moment."""
        engine = self.engine
        if self._owner_id != self.owner_id:
            self._owner_id, self.has_lost_lease = self.owner_id, False
        has_met_fault = engine.take_faults_met() > 0
        is_fit = not (self.is_stalled or has_met_fault or engine.faults or engine.outage or engine.hangs)
        if not is_fit:
            self.is_fit_since_ns = None
        elif self.is_fit_since_ns is None and self.loop.is_idle:
            # Idle: whatever failed before has been heard of.
            self.is_fit_since_ns = now_ns
        if is_fit and not self.has_lost_lease:
            self.renewed_at_ns = now_ns

    def note_pause(self) -> None:
        """Time is about to pass: whoever is in the middle of something stands still meanwhile, its keeper for one."""
        if not self.loop.is_idle:
            self.is_fit_since_ns = None

    def serve(self, number: int, request: Request, *, is_same_dialect: bool) -> Call:
        """A client's call arrives."""
        client = Client()
        task = self.loop.create_task(self.gate.serve(request, client))
        return Call(number, self, client, task, is_same_dialect)

    def ask(self, question: Callable[[BatchingLedger], Coroutine[Any, Any, Any]]) -> "asyncio.Task[Any]":
        """A client that speaks to the ledger itself."""
        return self.loop.create_task(question(self.ledger))

    def reload(self, config: Config) -> "asyncio.Task[Any]":
        """Go on under another config, as a whole or not at all; calls under way keep theirs. One at a time."""
        reloading = self._reloading
        if reloading is None or reloading.done():
            reloading = self._reloading = self.loop.create_task(self._reload(config))
        return reloading

    async def _reload(self, config: Config) -> None:
        await self.ledger.apply(config.limits)
        self.config, self.gate = config, gate_over(config, self._shared)

    def drain(self, calls: list[Call]) -> None:
        """Leave in good order, cutting the calls that are under way."""
        self.is_draining = True
        for call in calls:
            call.task.cancel()
        self.loop.create_task(self._drain([call.task for call in calls]))

    async def _drain(self, tasks: "list[asyncio.Task[None]]") -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._keeper.stop()
        await self._shared.drain(DRAIN_S)
        await self._spool.close()
        await self.ledger.close()
        self.has_left = True

    def die(self) -> None:
        """End at once; whatever its tasks would still do reaches nobody."""
        self.engine.is_dead = True
        self._spool.die()
        self.loop.die()
