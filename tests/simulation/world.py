"""A simulated world: one store, several gateway processes, a provider, clients; and what is checked in it.

One random generator decides everything that happens, and nothing else does: a seed gives the same history each time, on
each engine. `world_steps` says what can happen, `world_seeds` plays it.
"""

import functools
import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gate_harness import config_of
from world_books import Account, Violated
from world_checks import Checker
from world_engine import FaultyEngine
from world_process import Call, Process
from world_shadow import Shadow
from world_store import Store
from world_upstream import CLAUDE, KINDS, ProcessUpstream, Provider

from spendfuse.clock import FrozenClock
from spendfuse.config import Config
from spendfuse.core.decisions import Admitted
from spendfuse.core.errors import LedgerError
from spendfuse.core.reservations import Entry, EntryKind, ReservationId
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.keeper import KEEPER_INTERVAL_S
from spendfuse.ledger.operations import ExpireDue, Operation, Outcome, Reserve, Settle, Void

LEASE_NS = 30 * 10**9
KEEPER_INTERVAL_MS = int(KEEPER_INTERVAL_S * 1_000)
TRACE_LINES = 40
CUT_END_BYTES_MAX = 2_000
"""More than the end of a stream that was cut takes."""
EVERYTHING_EVERY = 100
"""So many steps lie between two readings of the whole store."""
_MORE = f"  haiku: anthropic/{CLAUDE}\nbusy_wait: 2s"
_CONFIGS = (
    """
  company: {usd: '0.02', per: hour}
  user-tokens: {tokens: 5000, per: hour, each: user}
  whole: {usd: '0.02', per: 4h, each: feature, fit: false}
  parallel: {concurrent: 3, each: user}
  rate: {requests: 12, per: minute, each: key}
  daily: {requests: 400, per: day}
  dear: {usd: '0.03', per: 2h, match: {model: [plain]}, on_exceed: {route_to: frugal}}
  watched: {usd: '0.01', per: 4h, on_exceed: shadow}
  agent: {usd: '0.003', per: lifetime, each: run}
""",
    """
  company: {usd: '0.01', per: hour}
  user-tokens: {tokens: 5000, per: hour, each: user, on_exceed: shadow}
  parallel: {concurrent: 4, each: user}
  rate: {requests: 6, per: minute, each: key, burst: 3}
  organization: {usd: '0.6', per: lifetime, each: organization}
  watched: {usd: '0.05', per: 4h}
""",
    """
  company: {usd: '0.03', per: hour}
  user-tokens: {tokens: 4000, per: hour, each: user}
  outputs: {output_tokens: 1500, per: 5m, each: [user, feature]}
  daily: {requests: 200, per: day}
  organization: {usd: '0.6', per: lifetime, each: organization}
""",
)


@functools.cache
def configs() -> tuple[Config, ...]:
    """Those that a process may have."""
    return tuple(config_of(limits, _MORE) for limits in _CONFIGS)


class World:
    """What there is."""

    def __init__(self, seed: int, store: Store, clock: FrozenClock, *, spool: Path, is_shadowed: bool) -> None:
        self.seed = seed
        self.spool = spool
        self.step = 0
        self.dice = dice = random.Random(seed)
        self.clock = clock
        self.store = store
        self.shadow = Shadow(clock) if is_shadowed else None
        self.checker = Checker(store, [one for config in configs() for one in config.limits], clock)
        self.provider = Provider(dice, clock, obeys_cap=dice.random() < 0.8, kinds=(*KINDS, "silent"))
        self.processes: list[Process] = []
        self.processes_ever = 0
        self.config = configs()[0]
        self.calls: dict[int, Call] = {}
        self.calls_ever = 0
        self.asks: list[Any] = []
        self.history: deque[tuple[Operation, Outcome]] = deque(maxlen=200)
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self._digest = hashlib.sha256()
        self.is_repeating = False
        self.violated: Violated | None = None
        self._dead_since_ns: dict[int, tuple[int, int]] = {}
        """Owners that are gone: since when, and their process."""
        self._leases: list[Process] = []
        """The dead whose leases go on."""

    def note(self, what: str) -> None:
        """For the trace of a failure."""
        line = f"step {self.step}, {self.clock.now_ns() // NS_PER_MS} ms: {what}"
        self.trace.append(line)
        self._digest.update(line.encode())

    def digest(self) -> str:
        """Of all that happened, and of what the store has in the end."""
        for row in sorted(self.store.entries(None)):
            self._digest.update(repr(row[:12]).encode())
        return self._digest.hexdigest()

    def bury(self) -> None:
        """End all processes that are left."""
        for process in self.processes:
            process.die()
            process.engine.session.kill()
        self.processes = []

    def check(self, what: Callable[[], object]) -> None:
        """Look, and remember what is broken. Only the first counts: what comes after it may follow from it."""
        if self.violated is None:
            try:
                what()
            except Violated as violated:
                self.violated = violated

    def start(self) -> Process:
        """One more process, which applies the config of this moment."""
        self.processes_ever += 1
        number, config = self.processes_ever, self.config
        session = self.store.open(config.limits)
        if self.shadow is not None:
            self.shadow.opened(number, config.limits, session.owner_id)
        self.check(lambda: self.checker.applied(config.limits))
        owner_id = session.owner_id

        def committed(
            operations: Sequence[Operation],
            outcomes: Sequence[Outcome] | None,
            commits: int,
            voided: Sequence[ReservationId],
        ) -> None:
            nonlocal owner_id
            if owner_id != session.owner_id:
                owner_id = session.owner_id
                self.note(f"process {number} is owner {owner_id} from now on")
                if self.shadow is not None:
                    self.shadow.registered_anew(number, owner_id)
            self.check(lambda: self._committed(number, operations, outcomes, commits, voided))
            if not operations and process.has_lost_lease and self.store.has_lease(owner_id):
                self._regained(process)

        engine = FaultyEngine(session, committed, lambda error: self.check(lambda: _raise_broken(error)))
        upstream = ProcessUpstream(self.provider, lambda *sent: self.check(lambda: self._check_sent(*sent)))
        self.note(f"process {number} starts as owner {owner_id} with config {configs().index(config)}")
        process = Process(number, config=config, engine=engine, spool=self.spool, upstream=upstream, clock=self.clock)
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """A process dies, with all that it was about to do."""
        process.die()
        process.engine.session.kill()
        self._forget(process)
        if not self.store.has_leases:
            self._gone(process)
        elif not process.has_lost_lease:
            self._leases.append(process)

    def look_after(self) -> None:
        """What the world itself does between two steps: bury the dead, let leases and patience end."""
        self.provider.pass_time()
        for process in list(self.processes):
            if process.engine.is_doomed:
                self.note(f"process {process.number} died within a batch")
                self.kill(process)
            elif process.has_left:
                self._close(process)
            else:
                process.note_health(self.clock.now_ns())
        if self.store.has_leases:
            self._end_leases()

    def check_between_steps(self) -> None:
        """What has to hold now.

        Raises:
            Violated: an invariant is broken.
        """
        for process in self.processes:
            if process.loop.failures:
                self.check(lambda process=process: _raise_failed(process))
            self.check(lambda process=process: self._check_kept(process))
        for number, call in list(self.calls.items()):
            if call.is_over:
                del self.calls[number]
                self.check(lambda call=call: self._check_call(call))
        for ask in [one for one in self.asks if one.done()]:
            self.asks = [one for one in self.asks if one is not ask]
            self.check(lambda ask=ask: _check_ask(ask))
        if self.step % EVERYTHING_EVERY == 0:
            self.check(self.check_everything)
        if self.violated is not None:
            raise self.violated

    def check_end(self) -> None:
        """Nothing is open, and all that was ever billed is charged.

        Raises:
            Violated: an invariant is broken.
        """
        self.step += 1
        self.check_between_steps()
        self.check(self.check_everything)
        for account in self.checker.books.open.values():
            self.check(lambda account=account: _raise_open(account))
        if self.violated is not None:
            raise self.violated

    def check_everything(self) -> None:
        """The whole store, and what its engine reports of it."""
        self.checker.check_everything()
        for account in self.checker.books.accounts.values():
            self._check_charge(account)
        for process in self.processes:
            if self.shadow is not None:
                self.shadow.compare_reports(process.number, process.engine.session, ("user", "run"))
            elif not process.has_left:
                self.checker.check_lines(process.engine.session.ask("balances", None))
            mismatches = process.engine.session.ask("audit").found
            if mismatches:
                raise Violated(8, f"the audit finds {mismatches}")
            break

    def _committed(
        self,
        number: int,
        operations: Sequence[Operation],
        outcomes: Sequence[Outcome] | None,
        commits: int,
        voided: Sequence[ReservationId],
    ) -> None:
        first: Sequence[Outcome] | None = None
        here: Sequence[Outcome] = [None] * len(operations)
        if self.shadow is not None:
            for _ in range(commits):
                here = self.shadow.run(number, operations, voided)
                first = first or here
        # Of a batch that was committed and then ran again, the first run explains what has changed: the second may find
        # that what it is to extend has ended in the meantime.
        explains = here if outcomes is None else outcomes
        asked = list(zip(operations, first if first is not None and commits > 1 else explains, strict=True))
        if self.is_repeating:
            self.checker.unchanged(asked)
        self.checker.committed(asked, voided=voided)
        for account in self.checker.ended:
            self._check_charge(account)
        if self.shadow is not None and outcomes is not None:
            self.shadow.compare(operations, outcomes, here)
        if not self.is_repeating:
            for one, outcome in asked:
                is_end = isinstance(one, Settle | Void) and isinstance(outcome, Entry)
                if is_end or (isinstance(one, Reserve) and isinstance(outcome, Admitted)):
                    self.history.append((one, outcome))

    def _check_sent(self, number: int, cap: int) -> None:
        """A call goes up at this moment."""
        account = self.checker.books.by_run.get(str(number))
        if account is None or account.kind in (EntryKind.SETTLED, EntryKind.VOIDED):
            raise Violated(13, f"call {number} went up with {account}")
        if cap > account.cap:
            raise Violated(13, f"call {number} went up with a cap of {cap}, reserved are {account.cap}")

    def _check_charge(self, account: Account) -> None:
        """The end of a gate's call, against its provider's bill."""
        exchange = self.provider.exchanges.get(int(account.run)) if account.run.isdigit() else None
        if exchange is None or not account.entries:
            return
        billed, charged, name = exchange.billed_nanos, account.charged, f"call {account.run}"
        last, is_estimated = account.entries[-1], account.is_estimated
        if account.kind is EntryKind.VOIDED and len(account.entries) == 1 and billed:
            raise Violated(11, f"{name} was voided, and billed {billed}")
        if charged < billed and (billed <= account.held_cost or not is_estimated):
            raise Violated(7, f"{name} was charged {charged}, and billed {billed}: {account.entries}")
        if account.kind is EntryKind.SETTLED and not is_estimated:
            is_within = last[5] <= last[8] and last[6] <= last[9]
            if is_within and charged > last[7]:
                raise Violated(10, f"{name} was charged {charged} above its quote, with usage within its bound: {last}")
        if account.kind is EntryKind.SETTLED and is_estimated:
            if charged <= 0:
                raise Violated(11, f"{name} was charged nothing, and nobody knows what it cost")
            if charged > last[7] and self.provider.obeys_cap:
                raise Violated(11, f"{name} was charged {charged} by estimate, reserved were {last[7]}")

    def _check_call(self, call: Call) -> None:
        """What a client got of a call that is over."""
        error = None if call.task.cancelled() else call.task.exception()
        if error is not None and not isinstance(error, LedgerError):
            raise Violated(0, f"call {call.number} failed: {error!r}")
        exchange = self.provider.exchanges.get(call.number)
        if exchange is None or not exchange.said or call.client.status != 200 or not call.is_same_dialect:
            return
        told, said = call.client.body, exchange.said
        if exchange.usage_chunk:
            said = said.replace(exchange.usage_chunk, b"")
        is_whole = call.client.is_finished and not call.client.is_aborted
        if told == said or (not is_whole and said.startswith(told)):
            return
        same = next((at for at, (a, b) in enumerate(zip(told, said, strict=False)) if a != b), len(told))
        # Cut as it outran its reservation, or as a keeper had ended that: then its end is ours, and well-formed.
        end = told[max(0, same - 200) :]
        is_cut = b'"length"' in end or b'"max_tokens"' in end
        if not (exchange.is_stream and is_cut and len(told) - same < CUT_END_BYTES_MAX):
            raise Violated(17, f"call {call.number}: the provider said {said!r}, the client got {told!r}")

    def _check_kept(self, process: Process) -> None:
        """Invariant 12: a process whose keeper could run has run it."""
        now_ns = self.clock.now_ns()
        if process.is_fit_since_ns is None or process.is_fit_since_ns > now_ns - 2 * KEEPER_INTERVAL_MS * NS_PER_MS:
            return
        if process.is_stalled or process.is_draining or not process.loop.is_idle or process.engine.is_dead:
            return
        before_ns = now_ns - KEEPER_INTERVAL_MS * NS_PER_MS
        dead = {
            owner_id
            for owner_id, (since_ns, of_process) in self._dead_since_ns.items()
            if since_ns <= before_ns and of_process != process.number
        }
        self.checker.check_kept(before_ns // NS_PER_MS, dead)

    def _close(self, process: Process) -> None:
        """A process has drained."""
        self.note(f"process {process.number} leaves")
        process.engine.session.close()
        if self.shadow is not None:
            self.shadow.closed(process.number)
        self._forget(process)
        self.check(lambda: self.checker.committed([(ExpireDue(), None)]))
        self._dead_since_ns[process.owner_id] = (self.clock.now_ns(), process.number)

    def _forget(self, process: Process) -> None:
        self.processes.remove(process)
        for call in [one for one in self.calls.values() if one.process is process]:
            del self.calls[call.number]

    def _gone(self, process: Process) -> None:
        self._dead_since_ns[process.owner_id] = (self.clock.now_ns(), process.number)
        if self.shadow is not None:
            self.shadow.gone(process.number, process.owner_id)

    def _regained(self, process: Process) -> None:
        """Trying a store that was away renews a lease that was over, before anybody else has taken notice."""
        self.note(f"the lease of process {process.number} is renewed")
        process.has_lost_lease, process.renewed_at_ns = False, self.clock.now_ns()
        self._dead_since_ns.pop(process.owner_id, None)
        if self.shadow is not None:
            self.shadow.regained(process.number)

    def _end_leases(self) -> None:
        before_ns = self.clock.now_ns() - LEASE_NS
        for process in [*self.processes, *self._leases]:
            if process.renewed_at_ns <= before_ns and not process.has_lost_lease:
                self.note(f"the lease of process {process.number} ends")
                process.has_lost_lease = True
                self.store.end_lease(process.owner_id)
                self._gone(process)
        self._leases = [one for one in self._leases if not one.has_lost_lease]


def _raise_broken(error: BaseException) -> None:
    """The store has refused what its own constraints forbid: 1 and 3 are among them, 5 is a key."""
    text = str(error)
    number = 3 if "ceiling" in text else 1 if ">= 0" in text else 5 if "UNIQUE" in text else 0
    raise Violated(number, f"the store fails: {error!r}")


def _raise_open(account: Account) -> None:
    raise Violated(12, f"{account} is open at the end of the world")


def _raise_failed(process: Process) -> None:
    raise Violated(0, f"process {process.number}: {process.loop.failures}")


def _check_ask(ask: Any) -> None:
    error = None if ask.cancelled() else ask.exception()
    if error is not None and not isinstance(error, LedgerError):
        raise Violated(0, f"a verb failed: {error!r}")
