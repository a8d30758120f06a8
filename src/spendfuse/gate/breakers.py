"""Breakers at the gate: what a call meets of them, and what its attempts tell them.

A call asks this process's copy, which costs a look at a flag while all is closed, and next to nothing where something
is open: neither the ledger nor the upstream is touched. What attempts tell is gathered and told to the store twice a
second, an error at once, so that a burst of them opens a breaker within its first wave; no answer waits for it.

Failure policy: while the store is away copies stay as they are and what is untold is kept; its limits refuse every call
in the meantime anyway. A probe that the store can't grant is not sent. One whose process dies is given to another call
when its lease is over.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Collection, Sequence
from functools import partial

from spendfuse.clock import Clock
from spendfuse.core.breakers import PAUSE, Breaker, Burn, Counts, Drift, ErrorRate, Phase, Spent
from spendfuse.core.errors import LedgerClosed, LedgerError, LedgerUnavailable
from spendfuse.core.labels import Labels
from spendfuse.core.refusals import UNAVAILABLE_RETRY_S, Code, Deny, deny_open
from spendfuse.core.reservations import ReservationId
from spendfuse.core.windows import MS_PER_S, NS_PER_MS
from spendfuse.gate.breaker_states import BreakerCopy, Probing
from spendfuse.gate.tallies import Tallies
from spendfuse.gate.watches import AttemptWatch
from spendfuse.ledger.breakers import PROBE_LEASE_MS, Attempts, BreakerStates, Key
from spendfuse.ledger.store import Ledger

logger = logging.getLogger("spendfuse.gate")
FLUSH_S = 0.5
GATHER_S = 0.003
"""For so long the errors of a burst are gathered before the store is told."""
URGENT_BURST, URGENT_EVERY_S, URGENT_MAX = 20, 0.2, 4
"""So many times the store may be told at once of errors, and then so often; so many may be under way. A steady trickle
of errors must not cost a transaction each."""
JUDGE_S = 1.0
RENEW_S = PROBE_LEASE_MS / MS_PER_S / 3
BASELINE_S = 300.0


class Breakers:
    """The breakers of this process: none before `configure`."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._breakers: Sequence[Breaker] = ()
        self.copy = BreakerCopy()
        self._tallies = Tallies(self.copy)
        self._of_limits: Sequence[Breaker] = ()
        self._with_baseline: Sequence[Breaker] = ()
        self._must_read_baselines = asyncio.Event()
        self._baselines: dict[Key, Counts] = {}
        self._untold: list[partial[Awaitable[BreakerStates]]] = []
        self._probes: dict[int, list[tuple[Breaker, str]]] = {}
        self._taking: set[asyncio.Task[BreakerStates]] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._hurrying: asyncio.TimerHandle | None = None
        self._work = asyncio.Event()
        self._must_follow_spent = False
        self._urgent_at_s = self._judge_at_s = self._renew_at_s = 0.0

    def configure(self, breakers: Sequence[Breaker]) -> None:
        """Have these breakers, of a config that takes the place of another. What the store knows of them holds on."""
        if any(isinstance(one.trigger, ErrorRate) for one in breakers):
            breakers = (*breakers, PAUSE)
        self._breakers = breakers
        self.copy.configure(breakers)
        self._tallies.configure(breakers)
        self._of_limits = [one for one in breakers if isinstance(one.trigger, Spent)]
        self._with_baseline = [one for one in breakers if _has_baseline(one)]
        self._must_read_baselines.set()
        # A limit may be spent already, or no longer.
        self.limits_spent()

    @property
    def wants_charges(self) -> bool:
        """Whether any breaker looks at what calls cost."""
        return self._tallies.wants_charges

    def now_ms(self) -> int:
        """This process's time."""
        return self._clock.now_ns() // NS_PER_MS

    def look(self, labels: Labels, *, asks: Probing = ()) -> Deny | Probing:
        """See `BreakerCopy.look`."""
        if self.copy.is_calm:
            return ()
        return self.copy.look(labels, self.now_ms(), asks=asks)

    def watch(self, labels: Labels, *, is_stream: bool) -> AttemptWatch:
        """What sees an attempt that begins now."""
        return AttemptWatch(self, labels, is_stream=is_stream)

    async def admit(self, watch: AttemptWatch, probing: Probing, reservation_id: ReservationId) -> Deny | None:
        """Say why an attempt may not go whose reservation has been made: `probing` is what it was told when it came.

        Something may have opened while it waited for the store. A probe is asked for now, so that calls which limits
        refuse never are one.
        """
        now = self.look(watch.labels, asks=probing)
        if isinstance(now, Deny):
            return now
        if not now:
            return None
        try:
            denied = await self._take_probe(now, reservation_id)
        except LedgerUnavailable as error:
            return Deny(Code.STORE_UNAVAILABLE, f"No call is admitted: {error}.", retry_after_s=UNAVAILABLE_RETRY_S)
        # What others have closed meanwhile needs no probe.
        own = [one for one in now if self.copy.state_of(*one).probe_id == reservation_id]
        if denied is None and own:
            self._probes[reservation_id] = own
            watch.become_probe(tuple(own), reservation_id)
        return denied

    async def _take_probe(self, probing: Probing, probe_id: int) -> Deny | None:
        taking = self._loop.create_task(self._ledger.take_probe(probing, probe_id=probe_id))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        try:
            self._merge(await asyncio.shield(taking))
        except asyncio.CancelledError:
            # The client left; the store may grant it all the same.
            taking.add_done_callback(partial(self._give_up_taken, probing, probe_id))
            raise
        store_ms = self.copy.store_ms(self.now_ms())
        for breaker, subject in probing:
            state = self.copy.state_of(breaker, subject)
            if state.phase is not Phase.CLOSED and state.probe_id != probe_id:
                return deny_open(breaker, subject, state, store_ms)
        return None

    def _give_up_taken(self, probing: Probing, probe_id: int, taken: asyncio.Task[BreakerStates]) -> None:
        if taken.cancelled() or taken.exception() is not None:
            return
        self._merge(taken.result())
        for breaker, subject in probing:
            self.end_probe(breaker, subject, probe_id, None)

    def count(
        self, labels: Labels, closings: int, *, is_error: bool, whole_ms: int | None, first_token_ms: int | None
    ) -> None:
        """An attempt has ended: see `Tallies.attempt`."""
        self._tallies.attempt(labels, closings, is_error=is_error, whole_ms=whole_ms, first_token_ms=first_token_ms)
        if is_error and self._may_hurry():
            self._hurrying = self._loop.call_later(GATHER_S, self._hurry)

    def count_charge(self, labels: Labels, closings: int, *, cost: int, output_tokens: int) -> None:
        """A call was charged."""
        self._tallies.charge(labels, closings, cost=cost, output_tokens=output_tokens)

    def end_probe(self, breaker: Breaker, subject: str, probe_id: int, succeeded: bool | None) -> None:
        """A probe has ended; None: it could not tell."""
        left = [one for one in self._probes.pop(probe_id, []) if one[0].name != breaker.name]
        if left:
            self._probes[probe_id] = left
        self._tell(partial(self._ledger.end_probe, breaker, subject, probe_id=probe_id, succeeded=succeeded))

    def pause(self, target: str, ms: int) -> None:
        """A provider has asked to leave its target alone for so long."""
        if PAUSE in self._breakers and ms:
            logger.warning("target_paused target=%s ms=%d", target, ms)
            why = f"the provider answered 429 and asked to come again in {-(-ms // MS_PER_S)} s"
            self._tell(partial(self._ledger.pause_target, target, ms=ms, why=why))

    def limits_spent(self, names: Collection[str] | None = None) -> None:
        """Limits have become spent, or (None) are so no longer."""
        if self._of_limits and (names is None or any(_limit_of(one) in names for one in self._of_limits)):
            self._must_follow_spent = True
            self._work.set()

    async def load(self) -> None:
        """Read how all stand, for a `Follower` to repeat."""
        self._merge(await self._ledger.breakers(), is_whole=True)

    def learn(self, states: BreakerStates) -> None:
        """What this process has changed in the store by other ways."""
        self._merge(states)

    async def run(self) -> None:
        """Tell the store what there is to tell, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush_often())
            tasks.create_task(self._read_baselines())

    async def flush(self) -> None:
        """Tell the store all that is untold, and ask it to judge what is due.

        Raises:
            LedgerUnavailable: it is away; what it did not take is untold still.
        """
        while self._untold:
            self._merge(await self._untold[0]())
            del self._untold[0]
        await self._follow_spent()
        now_s = self._loop.time()
        if self._probes and now_s >= self._renew_at_s:
            self._renew_at_s = now_s + RENEW_S
            for probe_id, several in list(self._probes.items()):
                self._merge(await self._ledger.renew_probe(several, probe_id=probe_id))
        await self._tell_counts(self._due(now_s))

    async def _tell_counts(self, due: Sequence[Attempts] = ()) -> None:
        counted = self._tallies.drain()
        attempts = [self._attempts(*one) for one in counted]
        known = {one.key for one in attempts}
        attempts += [one for one in due if one.key not in known]
        if attempts:
            try:
                self._merge(await self._ledger.count_attempts(attempts))
            except LedgerUnavailable:
                self._tallies.restore(counted)
                raise

    def _hurry(self) -> None:
        """Tell the store of errors although it may not have answered yet what it was told before."""
        self._hurrying = None
        if len(self._telling) < URGENT_MAX:
            telling = self._loop.create_task(self._tell_counts())
            self._telling.add(telling)
            telling.add_done_callback(self._told)

    def _told(self, telling: asyncio.Task[None]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled() and (error := telling.exception()) is not None:
            logger.warning("breakers_not_told error=%s", error)

    async def close(self) -> None:
        """Tell what can be told before the process ends."""
        if self._hurrying is not None:
            self._hurrying.cancel()
        try:
            await asyncio.gather(*self._telling, return_exceptions=True)
            await self.flush()
        except LedgerError as error:
            logger.warning("breakers_not_told error=%s", error)

    async def _follow_spent(self) -> None:
        store_ms = self.copy.store_ms(self.now_ms())
        if self._must_follow_spent or any(
            isinstance(breaker.trigger, Spent) and state.closes_at_ms is not None and state.closes_at_ms <= store_ms
            for breaker, _, state in self.copy.not_closed
        ):
            self._must_follow_spent = False
            try:
                self._merge(await self._ledger.follow_spent(self._of_limits))
            except LedgerUnavailable:
                self._must_follow_spent = True
                raise

    def _due(self, now_s: float) -> list[Attempts]:
        """What may close by being judged, although no attempt has ended."""
        if now_s < self._judge_at_s:
            return []
        self._judge_at_s = now_s + JUDGE_S
        store_ms = self.copy.store_ms(self.now_ms())
        return [
            self._attempts(breaker, subject, Counts())
            for breaker, subject, state in self.copy.not_closed
            if breaker.is_judged and state.phase is Phase.OPEN and store_ms >= state.since_ms + breaker.cooldown_ms
        ]

    def _attempts(self, breaker: Breaker, subject: str, counts: Counts) -> Attempts:
        key = (breaker.name, subject)
        baseline = self._baselines.get(key, Counts())
        return Attempts(breaker, subject, self.copy.closed_since_ms(key), counts, baseline)

    def _merge(self, states: BreakerStates, *, is_whole: bool = False) -> None:
        for key in self.copy.take(states, self.now_ms(), is_whole=is_whole):
            self._tallies.forget(key)

    def _tell(self, what: "partial[Awaitable[BreakerStates]]") -> None:
        self._untold.append(what)
        self._work.set()

    def _may_hurry(self) -> bool:
        """Whether an error is told at once: the generic cell rate algorithm."""
        now_s = self._loop.time()
        after_s = max(self._urgent_at_s, now_s) + URGENT_EVERY_S
        if self._hurrying is not None or after_s - now_s > URGENT_BURST * URGENT_EVERY_S:
            return False
        self._urgent_at_s = after_s
        return True

    async def _flush_often(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._work.wait()
            self._work.clear()
            try:
                await self.flush()
            except LedgerClosed:
                return
            except LedgerUnavailable as error:
                logger.warning("breakers_not_told error=%s", error)
                await asyncio.sleep(FLUSH_S)
            except LedgerError:
                logger.exception("breakers_not_told")
                self._untold.clear()

    async def _read_baselines(self) -> None:
        while True:
            self._must_read_baselines.clear()
            for breaker in self._with_baseline:
                try:
                    usual = await self._ledger.baseline(breaker)
                except LedgerClosed:
                    return
                except LedgerUnavailable as error:
                    logger.warning("baseline_not_read breaker=%s error=%s", breaker.name, error)
                    continue
                self._baselines = {key: one for key, one in self._baselines.items() if key[0] != breaker.name}
                self._baselines.update({(breaker.name, subject): counts for subject, counts in usual.items()})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BASELINE_S):
                    await self._must_read_baselines.wait()


def _limit_of(breaker: Breaker) -> str:
    return breaker.trigger.limit_name if isinstance(breaker.trigger, Spent) else ""


def _has_baseline(breaker: Breaker) -> bool:
    trigger = breaker.trigger
    return isinstance(trigger, Drift) or (isinstance(trigger, Burn) and trigger.times is not None)
