"""The one connection of a process that writes to a PostgreSQL store.

A batch is one transaction: a call that locks, decisions in Python, a call that writes, a commit. It runs again when
another process came between, and on a new connection when the old one was lost: should its commit have succeeded
unseen, every verb that moves money finds by its reservation's id that it has been done.

Failure policy: closed, within the bound. Reserves of which nobody learned whether they were committed are voided by the
next batch.
"""

import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from spendfuse.clock import Clock, SystemClock
from spendfuse.core.errors import LedgerClosed
from spendfuse.core.reservations import ReservationId
from spendfuse.core.subjects import hour_of
from spendfuse.core.windows import MS_PER_S, NS_PER_MS
from spendfuse.ledger.applied import WITHOUT_LIMITS, AppliedLimits
from spendfuse.ledger.breakers import BreakerChange, BreakerStates
from spendfuse.ledger.operations import (
    CountRefusals,
    ExpireDue,
    Extend,
    Operation,
    Outcome,
    Record,
    Reserve,
    Settle,
    Void,
)
from spendfuse.ledger.postgres_alerts import has_outbox_work
from spendfuse.ledger.postgres_batch import Locking, PostgresBatch
from spendfuse.ledger.postgres_books import PostgresBooks
from spendfuse.ledger.postgres_breakers import breaker_changes, breaker_states
from spendfuse.ledger.postgres_connection import ConnectionLost, PostgresConnection, StartAgain
from spendfuse.ledger.postgres_limits import apply_limits, end_amounts, has_ended_amounts, lock_store
from spendfuse.ledger.postgres_rare import RareOperation, run_rare
from spendfuse.ledger.postgres_spent import spent_now
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import KeyRecord, TargetOverrun, Topic

TRIES_MAX = 8
"""So often a batch begins before it fails: with others between, or with the connection lost."""
LEASE_S = 30.0
_RENEWALS = 6
"""So often a lease is renewed before it would end."""
PURGE_INTERVAL_S = 60.0
_NS_PER_S = 10**9
_OWNERS_APART = 1_024
"""Call ids carry their owner modulo this: no two that live at once may be equal in it."""

_SELECT_CLOCK = sql("postgres", "select_clock")
_INSERT_OWNER = sql("postgres", "insert_owner")
_SELECT_OWNERS = sql("postgres", "select_owners")
_DELETE_OWNER = sql("postgres", "delete_owner")
_RENEW_LEASE = sql("postgres", "renew_lease")
_HAS_DEAD_OWNERS = sql("postgres", "has_dead_owners")
_DELETE_DEAD_OWNERS = sql("postgres", "delete_dead_owners")
_DELETE_IDLE_RATES = sql("postgres", "delete_idle_rates")
_DELETE_OPENED_SUBJECTS = sql("postgres", "delete_opened_subjects")
_SELECT_KEYS = sql("postgres", "select_keys")
_SELECT_OVERRUNS = sql("postgres", "select_overruns")
_SELECT_REVISIONS = sql("postgres", "select_revisions")

_T = TypeVar("_T")


class PostgresWriter:
    """Runs batches, one at a time. A process without limits has no owner and does everything but reserve."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[PostgresConnection]],
        applied: AppliedLimits | None,
        clock: Clock | None,
        lease_s: float,
    ) -> None:
        self._connect = connect
        self._applied = applied
        self._clock = clock
        self._stopwatch = SystemClock()
        self._store_ahead_ns = 0
        self._lease_s = lease_s
        self._is_unregistered = False
        self._renew_at_s = self._purge_at_s = 0.0
        self._connection: PostgresConnection | None = None
        self._is_closed = False
        self._books = PostgresBooks(applied)
        self._has_ownerless = True
        """Whether to look for what dead owners held: once one was deleted, and at first."""
        self._doubtful: dict[ReservationId, None] = {}
        self.owner_id = 0

    async def open(self) -> None:
        """Apply the limits and register this process; the schema is up to date."""
        await self._again_and_again(self._enter)

    async def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """See `Engine.run`."""
        if self._is_closed:
            raise LedgerClosed("the store has been closed")
        asked = {one.reservation_id for one in operations if isinstance(one, Reserve)}
        is_in_doubt = False

        async def run_once(connection: PostgresConnection) -> list[Outcome]:
            nonlocal is_in_doubt
            if self._is_unregistered:
                await self._register_anew(connection)
            doubtful = [Void(number) for number in self._doubtful if number not in asked]
            outcomes, batches = await self._run(connection, [*doubtful, *operations], is_repeated=is_in_doubt)
            is_in_doubt = True
            await connection.commit()
            is_in_doubt = False
            self._applied = self._books.own
            for batch in batches:
                batch.remember()
            if any(isinstance(one, ExpireDue) for one in operations):
                self._has_ownerless = False
            self._doubtful.clear()
            return outcomes[len(doubtful) :]

        try:
            return await self._again_and_again(run_once)
        finally:
            if is_in_doubt:
                self._doubtful.update(dict.fromkeys(sorted(asked)))

    async def keys(self) -> list[KeyRecord]:
        """See `Ledger.keys`."""
        rows = await self._again_and_again(lambda connection: connection.rows(_SELECT_KEYS))
        return [
            KeyRecord(name, digest, json.loads(labels), tuple(json.loads(labels_from)), created_at_ms, revoked_at_ms)
            for name, digest, labels, labels_from, created_at_ms, revoked_at_ms in rows
        ]

    async def overruns(self) -> list[TargetOverrun]:
        """See `Ledger.overruns`."""
        rows = await self._again_and_again(lambda connection: connection.rows(_SELECT_OVERRUNS))
        return [TargetOverrun(*row) for row in rows]

    async def has_outbox_work(self, holder: str) -> bool:
        """See `AlertLedger.has_outbox_work`."""

        async def ask(connection: PostgresConnection) -> bool:
            return await has_outbox_work(connection, holder, await self._read_time(connection) // NS_PER_MS)

        return await self._again_and_again(ask)

    async def spent(self) -> list[SpentLine]:
        """See `Ledger.spent`."""

        async def read(connection: PostgresConnection) -> list[SpentLine]:
            return await spent_now(connection, await self._read_time(connection) // NS_PER_MS)

        return await self._again_and_again(read)

    async def breakers(self) -> BreakerStates:
        """See `BreakerLedger.breakers`."""

        async def read(connection: PostgresConnection) -> BreakerStates:
            return await breaker_states(connection, await self._read_time(connection) // NS_PER_MS)

        return await self._again_and_again(read)

    async def breaker_changes(self, *, after: int, newest: int | None) -> list[BreakerChange]:
        """See `BreakerLedger.breaker_changes`."""
        return await self._again_and_again(lambda connection: breaker_changes(connection, after=after, newest=newest))

    async def revisions(self) -> dict[Topic, int]:
        """See `Ledger.revisions`."""
        rows = await self._again_and_again(lambda connection: connection.rows(_SELECT_REVISIONS))
        numbers: dict[str, int] = dict(rows)
        return {topic: numbers[topic] for topic in Topic}

    async def close(self) -> None:
        """End this owner, expire what it holds and disconnect."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self.owner_id:
                await self._again_and_again(self._leave)
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        """Drop the connection, whatever is under way; the next verb makes a new one."""
        self._books.drop(self._applied)
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _again_and_again(self, work: Callable[[PostgresConnection], Awaitable[_T]]) -> _T:
        """Run work on a living connection, and again while another try may succeed."""
        for tries_left in range(TRIES_MAX - 1, -1, -1):
            try:
                if self._connection is None or self._connection.is_closed:
                    self._books.forget()
                    self._connection = await self._connect()
                return await work(self._connection)
            except StartAgain:
                await self._roll_back()
                if not tries_left:
                    raise
            except ConnectionLost:
                self.disconnect()
                if not tries_left:
                    raise
            except Exception:
                await self._roll_back()
                raise
            except BaseException:
                self.disconnect()
                raise
        raise AssertionError("unreachable")

    async def _roll_back(self) -> None:
        self._books.drop(self._applied)
        if self._connection is not None and not self._connection.is_closed:
            try:
                await self._connection.run("ROLLBACK")
            except ConnectionLost:
                self.disconnect()

    async def _enter(self, connection: PostgresConnection) -> None:
        await connection.run("BEGIN")
        now_ns = await self._read_time(connection)
        if self._applied is None:
            await connection.commit()
            return
        await lock_store(connection)
        await apply_limits(connection, self._applied, now_ns // NS_PER_MS)
        owner_id = await self._register(connection)
        await connection.commit()
        self._become(owner_id)

    async def _leave(self, connection: PostgresConnection) -> None:
        await connection.run("BEGIN")
        await lock_store(connection)
        await connection.change(_DELETE_OWNER, self.owner_id)
        self._has_ownerless = True
        batch = await self._locked(connection, [ExpireDue()])
        batch.expire_due()
        await batch.write(connection)
        await connection.commit()

    async def _register_anew(self, connection: PostgresConnection) -> None:
        """This owner was taken for dead: what it held has been, or will be, expired."""
        await connection.run("BEGIN")
        await lock_store(connection)
        owner_id = await self._register(connection)
        await connection.commit()
        self._become(owner_id)

    def _become(self, owner_id: int) -> None:
        self.owner_id = owner_id
        self._is_unregistered = False
        self._renew_at_s = self._stopwatch.monotonic_s() + self._lease_s / _RENEWALS

    async def _register(self, connection: PostgresConnection) -> int:
        """Become an owner with a number that no other owner shares, nor any call id of its. Alone with the store."""
        row = (int(self._lease_s * MS_PER_S), os.getpid(), socket.gethostname())
        taken = {owner_id % _OWNERS_APART for (owner_id,) in await connection.rows(_SELECT_OWNERS)}
        while True:
            owner_id: int = await connection.only(_INSERT_OWNER, *row)
            if owner_id % _OWNERS_APART not in taken or len(taken) >= _OWNERS_APART:
                return owner_id
            await connection.change(_DELETE_OWNER, owner_id)

    async def _run(
        self, connection: PostgresConnection, operations: Sequence[Operation], *, is_repeated: bool
    ) -> tuple[list[Outcome], list[PostgresBatch]]:
        """Run operations in a transaction, up to its commit."""
        await connection.run("BEGIN")
        expires = any(isinstance(one, ExpireDue) for one in operations)
        has_dead_owners = expires and await connection.only(_HAS_DEAD_OWNERS, self.owner_id)
        has_ended = expires and await has_ended_amounts(connection, self._clock_ms())
        if has_dead_owners or has_ended or any(isinstance(one, RareOperation) for one in operations):
            await lock_store(connection)
        if has_dead_owners:
            await connection.change(_DELETE_DEAD_OWNERS, self.owner_id)
            self._has_ownerless = True
        before = next(place for place, one in enumerate(operations) if isinstance(one, ExpireDue)) if has_ended else 0
        outcomes, batches = await self._run_in_order(connection, operations[:before], is_repeated=is_repeated)
        if has_ended:
            await end_amounts(connection, await self._read_time(connection) // NS_PER_MS)
        others, more = await self._run_in_order(connection, operations[before:], is_repeated=is_repeated)
        if not operations:
            self._renew_at_s = 0.0
        if expires or not operations:
            await self._keep_house(connection)
        return [*outcomes, *others], [*batches, *more]

    async def _run_in_order(
        self, connection: PostgresConnection, operations: Sequence[Operation], *, is_repeated: bool
    ) -> tuple[list[Outcome], list[PostgresBatch]]:
        outcomes: list[Outcome] = []
        batches: list[PostgresBatch] = []
        # Only alone with the store are there rare ones between, and rows locked more than once.
        for is_rare, part in itertools.groupby(operations, lambda one: isinstance(one, RareOperation)):
            several = list(part)
            if is_rare:
                outcomes += [await self._run_rare(connection, one, is_repeated=is_repeated) for one in several]
                continue
            batch = await self._locked(connection, several)
            batches.append(batch)
            outcomes += [self._execute(batch, one) for one in several]
            await batch.write(connection)
        return outcomes, batches

    async def _run_rare(self, connection: PostgresConnection, operation: Operation, *, is_repeated: bool) -> Outcome:
        assert isinstance(operation, RareOperation)
        now_ms = await self._read_time(connection) // NS_PER_MS
        return await run_rare(connection, self._books, operation, now_ms=now_ms, is_repeated=is_repeated)

    async def _locked(self, connection: PostgresConnection, operations: Sequence[Operation]) -> PostgresBatch:
        clock_ns = None if self._clock is None else self._clock.now_ns()
        locking = Locking(connection, self._books, operations, has_ownerless=self._has_ownerless)
        batch = await locking.lock(owner_id=self.owner_id, clock_ns=clock_ns, now_ns=clock_ns or self._guessed_ns())
        self._note_time(batch.now_ns)
        if not batch.is_owner and self.owner_id and not self._is_closed:
            self._is_unregistered = True
            raise StartAgain("this process was taken for dead")
        return batch

    def _execute(self, batch: PostgresBatch, operation: Operation) -> Outcome:
        match operation:
            case Reserve():
                return batch.reserve(operation) if self.owner_id else WITHOUT_LIMITS
            case Settle():
                return batch.settle(operation)
            case Void():
                return batch.void(operation)
            case Extend():
                return batch.extend(operation)
            case ExpireDue():
                return batch.expire_due()
            case CountRefusals():
                return batch.count_refusals(operation)
            case Record():
                return batch.record(operation)
            case _:
                raise AssertionError("not part of a batch")

    async def _keep_house(self, connection: PostgresConnection) -> None:
        """Renew the lease and purge, each when it is due. Last in a transaction: nothing is waited for afterwards."""
        now_s = self._stopwatch.monotonic_s()
        if self.owner_id and now_s >= self._renew_at_s:
            await connection.change(_RENEW_LEASE, int(self._lease_s * MS_PER_S), self.owner_id)
            self._renew_at_s = now_s + self._lease_s / _RENEWALS
        if now_s >= self._purge_at_s:
            now_ns = await self._read_time(connection)
            await connection.change(_DELETE_IDLE_RATES, now_ns)
            await connection.change(_DELETE_OPENED_SUBJECTS, hour_of(now_ns // NS_PER_MS))
            self._purge_at_s = now_s + PURGE_INTERVAL_S

    def _clock_ms(self) -> int | None:
        return None if self._clock is None else self._clock.now_ns() // NS_PER_MS

    async def _read_time(self, connection: PostgresConnection) -> int:
        if self._clock is not None:
            return self._clock.now_ns()
        now_ns: int = await connection.only(_SELECT_CLOCK)
        self._note_time(now_ns)
        return now_ns

    def _note_time(self, now_ns: int) -> None:
        self._store_ahead_ns = now_ns - int(self._stopwatch.monotonic_s() * _NS_PER_S)

    def _guessed_ns(self) -> int:
        """About the store's time: which windows to lock. What counts is the time that comes with the locks."""
        return int(self._stopwatch.monotonic_s() * _NS_PER_S) + self._store_ahead_ns
