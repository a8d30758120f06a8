"""The engine as a simulated process has it: the real one behind a store that fails, hangs and loses answers.

Around each batch stand the points at which a process can die: before it is run, and between its commit and its answer.
Each commit is shown to those who check, whether or not its answer arrives.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any

from world_postgres import Loss, PostgresSession
from world_store import Session

from spendfuse.core.breakers import Breaker, Counts
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.limits import Limit
from spendfuse.core.reservations import ReservationId
from spendfuse.ledger.alerts import ChannelHealth, StoredAlert
from spendfuse.ledger.breakers import BreakerChange, BreakerStates
from spendfuse.ledger.operations import Audit, Operation, Outcome, Reserve
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.store import BalanceLine, KeyRecord, RefusalCount, SpendRow, TargetOverrun, Topic


class Fault(Enum):
    """What becomes of a batch."""

    REFUSED = auto()
    """The store says that it can't be used; nothing is committed."""
    POISONED = auto()
    """The store fails because of an operation; nothing is committed."""
    ANSWER_LOST = auto()
    """Committed, but the process is told that the store can't be used."""
    BROKEN_OFF = auto()
    """Committed, but the process is told of a failure that it does not know."""
    HANGS = auto()
    """Nothing happens until the store is healed; then the batch runs, however late."""
    HANGS_THEN_FAILS = auto()
    """Nothing happens until the store is healed; then it is refused."""
    ANSWER_HANGS = auto()
    """Committed at once, and told once the store is healed."""
    DIES_BEFORE = auto()
    """The process dies before the commit."""
    DIES_AFTER = auto()
    """The process dies between the commit and its answer."""
    COMMIT_CUT = auto()
    """PostgreSQL: the connection breaks before the commit, and the engine begins again."""
    ANSWER_CUT = auto()
    """PostgreSQL: the connection breaks after the commit, and the engine begins again."""
    ALL_ANSWERS_CUT = auto()
    """PostgreSQL: so it goes until the engine gives up."""


Commit = Callable[[Sequence[Operation], Sequence[Outcome] | None, int, Sequence[ReservationId]], None]
"""Told of each batch: operations, outcomes (None: the engine has none), how often it was committed, what was voided."""
_LOSSES = {
    Fault.COMMIT_CUT: (Loss.COMMIT,),
    Fault.ANSWER_CUT: (Loss.ANSWER,),
    Fault.ALL_ANSWERS_CUT: (Loss.ANSWER,) * 8,
}


class FaultyEngine:
    """An `Engine`. `faults` meet the next batches, one each; `outage` all, until `heal`."""

    def __init__(self, session: Session, on_commit: Commit, on_broken: Callable[[BaseException], None]) -> None:
        self.session = session
        self.faults: deque[Fault] = deque()
        self.outage: Fault | None = None
        self.is_dead = False
        self.is_doomed = False
        """It died within a batch; the world buries it at the end of the step."""
        self.hangs = 0
        """Batches that wait for the store to be healed."""
        self._faults_met = 0
        self._on_commit = on_commit
        self._on_broken = on_broken
        self._healed: asyncio.Event = asyncio.Event()

    @property
    def owner_id(self) -> int:
        """See `Engine`."""
        return self.session.owner_id

    @property
    def is_ill(self) -> bool:
        """Whether something goes wrong, or is about to."""
        return self.outage is not None or bool(self.faults) or self.hangs > 0

    def repeat(self, operations: Sequence[Operation]) -> None:
        """Messages that come again, in a batch of their own."""
        self._run(operations)

    def heal(self) -> None:
        """The store is well again."""
        self.outage = None
        self.faults.clear()
        self._healed.set()
        self._healed = asyncio.Event()

    def take_faults_met(self) -> int:
        """How many batches have failed since the last call."""
        met, self._faults_met = self._faults_met, 0
        return met

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """See `Engine`."""
        await self._live()
        fault = self.faults.popleft() if self.faults else self.outage
        self._faults_met += fault is not None
        match fault:
            case None:
                return self._run(operations)
            case Fault.REFUSED:
                raise LedgerUnavailable("the world says no")
            case Fault.POISONED:
                raise RuntimeError("the world spoils the batch")
            case Fault.ANSWER_LOST:
                self._run(operations)
                raise LedgerUnavailable("the world lost the answer")
            case Fault.BROKEN_OFF:
                self._run(operations)
                raise RuntimeError("the world broke off")
            case Fault.HANGS:
                await self._hang()
                return self._run(operations)
            case Fault.HANGS_THEN_FAILS:
                await self._hang()
                raise LedgerUnavailable("the world hung")
            case Fault.ANSWER_HANGS:
                outcomes = self._run(operations)
                await self._hang()
                return outcomes
            case Fault.DIES_BEFORE:
                return await self._die()
            case Fault.DIES_AFTER:
                self._run(operations)
                return await self._die()
            case Fault.COMMIT_CUT | Fault.ANSWER_CUT | Fault.ALL_ANSWERS_CUT:
                if isinstance(self.session, PostgresSession):
                    self.session.losses.extend(_LOSSES[fault])
                return self._run(operations)

    async def balances(self, limit_name: str | None) -> Sequence[BalanceLine]:
        """See `Engine`."""
        return await self._ask("balances", limit_name)

    async def audit(self) -> Audit:
        """See `Engine`."""
        return await self._ask("audit")

    async def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> Sequence[SpendRow]:
        """See `Engine`."""
        return await self._ask("spend", label, since_ms=since_ms, until_ms=until_ms, top=top)

    async def keys(self) -> Sequence[KeyRecord]:
        """See `Engine`."""
        return await self._ask("keys")

    async def overruns(self) -> Sequence[TargetOverrun]:
        """See `Engine`."""
        return await self._ask("overruns")

    async def revisions(self) -> Mapping[Topic, int]:
        """See `Engine`."""
        return await self._ask("revisions")

    async def spent(self) -> Sequence[SpentLine]:
        """See `Engine`."""
        return await self._ask("spent")

    async def breakers(self) -> BreakerStates:
        """See `Engine`."""
        return await self._ask("breakers")

    async def breaker_changes(self, *, after: int, newest: int | None) -> Sequence[BreakerChange]:
        """See `Engine`."""
        return await self._ask("breaker_changes", after=after, newest=newest)

    async def baseline(self, breaker: Breaker) -> Mapping[str, Counts]:
        """See `Engine`."""
        return await self._ask("baseline", breaker)

    async def spenders(self, label: str, limit: Limit, subject: str, *, since_ms: int) -> Sequence[SpendRow]:
        """See `Engine`."""
        return await self._ask("spenders", label, limit, subject, since_ms=since_ms)

    async def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """See `Engine`."""
        return await self._ask("settled_since", since_ms)

    async def refusals(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """See `Engine`."""
        return await self._ask("refusals", since_ms, until_ms)

    async def has_outbox_work(self, holder: str) -> bool:
        """See `Engine`."""
        return await self._ask("has_outbox_work", holder)

    async def alerts(self, since_ms: int) -> Sequence[StoredAlert]:
        """See `Engine`."""
        return await self._ask("alerts", since_ms)

    async def channel_health(self) -> Sequence[ChannelHealth]:
        """See `Engine`."""
        return await self._ask("channel_health")

    async def close(self) -> None:
        """The world closes the session, once its process has drained."""

    def _run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        session = self.session
        doubtful, commits = list(session.doubtful), session.commits
        asked = {one.reservation_id for one in operations if isinstance(one, Reserve)}
        doubtful = [one for one in doubtful if one not in asked]
        try:
            outcomes = session.run(operations)
        except LedgerUnavailable:
            if not isinstance(session, PostgresSession):
                self._on_broken(AssertionError("the store fails although nothing is wrong with it"))
            if session.commits > commits:
                self._on_commit(operations, None, session.commits - commits, doubtful)
            raise
        except Exception as error:
            self._on_broken(error)
            raise
        self._on_commit(operations, outcomes, session.commits - commits, doubtful)
        return outcomes

    async def _ask(self, verb: str, *arguments: Any, **named: Any) -> Any:
        await self._live()
        if self.outage is not None:
            raise LedgerUnavailable("the world says no")
        return self.session.ask(verb, *arguments, **named)

    async def _live(self) -> None:
        if self.is_dead:
            await asyncio.get_running_loop().create_future()

    async def _hang(self) -> None:
        self.hangs += 1
        try:
            await self._healed.wait()
        finally:
            self.hangs -= 1
        await self._live()

    async def _die(self) -> Sequence[Outcome]:
        self.is_dead = self.is_doomed = True
        return await asyncio.get_running_loop().create_future()
