"""The stores of a simulated world, each engine as it is: what a process's session does with it, and what can be seen of
it from outside, by other connections and other code than the engine's.

Everything here is synchronous: whatever a session does has happened when it returns.
"""

import asyncio
import json
import sqlite3
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from spendfuse.clock import FrozenClock
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit
from spendfuse.core.reservations import ReservationId
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.endings import Ending
from spendfuse.ledger.memory import MemoryEngine
from spendfuse.ledger.memory_store import MemoryStore, Reservation
from spendfuse.ledger.operations import Operation, Outcome
from spendfuse.ledger.sqlite_file import connect_reader
from spendfuse.ledger.sqlite_reader import SqliteReader
from spendfuse.ledger.sqlite_writer import SqliteWriter

Key = tuple[str, str, int]
"""One balance: the identity of its limit, subject, number of the window."""
OpenRow = tuple[int, int, int, int, int, int, int, int, int, str]
"""Id, owner, reserved at, deadline, cap, cost, input and output tokens, label set, fleeting labels."""
EntryRow = tuple[Any, ...]
"""In the order of ENTRY_COLUMNS."""

ENTRY_COLUMNS = (
    "reservation_id, is_late, kind, reserved_at_ms, cost, input_tokens, output_tokens, held_cost, held_input_tokens,"
    " held_output_tokens, is_estimated, overrun_cost, written_at_ms, label_set_id, fleeting, calls, estimated_cost"
)
OPEN_COLUMNS = (
    "reservation_id, owner_id, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens,"
    " label_set_id, fleeting"
)


@dataclass(frozen=True, slots=True)
class BalanceSeen:
    """One balance as stored."""

    amount: int
    ceiling: int | None
    settled: int
    reserved: int
    overrun: int


class Session(Protocol):
    """What one process has of the store."""

    commits: int
    """Batches that were committed, those included whose answer was lost."""

    @property
    def owner_id(self) -> int: ...

    @property
    def doubtful(self) -> Sequence[ReservationId]:
        """Reserves that the next batch will void, as nobody learned whether they were committed."""
        ...

    def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """See `Engine.run`."""
        ...

    def ask(self, verb: str, *arguments: Any, **named: Any) -> Any:
        """One of the questions of `Engine`."""
        ...

    def close(self) -> None:
        """Leave in good order."""
        ...

    def kill(self) -> None:
        """Die."""
        ...


class Store(Protocol):
    """A store as several processes and an onlooker have it."""

    engine: str
    has_leases: bool
    """Whether a dead process is known by its lease only, not at once."""

    def open(self, limits: tuple[Limit, ...]) -> Session:
        """A new process that applies these limits."""
        ...

    def know_limits(self) -> None:
        """Other limits were applied."""
        ...

    def end_lease(self, owner_id: int) -> None:
        """So much time has passed."""
        ...

    def has_lease(self, owner_id: int) -> bool:
        """Whether its lease, which had ended, goes on."""
        ...

    def open_rows(self) -> Mapping[int, OpenRow]:
        """All open reservations."""
        ...

    def labels(self, row: OpenRow) -> Labels:
        """Those of an open reservation."""
        ...

    def entries(self, ids: Iterable[int] | None) -> Sequence[EntryRow]:
        """The entries of some reservations, or all, the closing ones before the late ones."""
        ...

    def balances(self, keys: Iterable[Key] | None) -> Mapping[Key, BalanceSeen]:
        """Some balances, or all, as far as they are stored; none where balances are folded whenever they are needed."""
        ...

    def rates(self) -> Mapping[tuple[str, str], int]:
        """By limit and subject."""
        ...

    def rates_seen(self) -> Mapping[tuple[str, str], int]:
        """As they were when `open_rows` was last called."""
        ...

    def close(self) -> None:
        """Remove it."""
        ...


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    raise AssertionError("it waits")


class MemoryWorld:
    """The reference model."""

    engine = "memory"
    has_leases = False

    def __init__(self, clock: FrozenClock) -> None:
        self._clock = clock
        self.store = MemoryStore()

    def open(self, limits: tuple[Limit, ...]) -> Session:
        return _MemorySession(MemoryEngine(limits, self._clock, self.store), self.store)

    def know_limits(self) -> None:
        pass

    def end_lease(self, owner_id: int) -> None:
        raise AssertionError("it has no leases")

    def has_lease(self, owner_id: int) -> bool:
        raise AssertionError("it has no leases")

    def open_rows(self) -> Mapping[int, OpenRow]:
        return {number: _open_row(number, one) for number, one in self.store.reservations.items() if not one.endings}

    def labels(self, row: OpenRow) -> Labels:
        return self.store.reservations[ReservationId(row[0])].labels

    def entries(self, ids: Iterable[int] | None) -> Sequence[EntryRow]:
        every = self.store.reservations
        asked = every if ids is None else [ReservationId(one) for one in ids]
        return [_entry_row(every[one], ending) for one in asked if one in every for ending in every[one].endings]

    def balances(self, keys: Iterable[Key] | None) -> Mapping[Key, BalanceSeen]:
        return {}

    def rates(self) -> Mapping[tuple[str, str], int]:
        return dict(self.store.tats_ns)

    rates_seen = rates

    def close(self) -> None:
        pass


class _MemorySession:
    doubtful: Sequence[ReservationId] = ()

    def __init__(self, engine: MemoryEngine, store: MemoryStore) -> None:
        self._engine = engine
        self._store = store
        self.commits = 0

    @property
    def owner_id(self) -> int:
        return self._engine.owner_id

    def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.commits += 1
        return at_once(self._engine.run(operations))

    def ask(self, verb: str, *arguments: Any, **named: Any) -> Any:
        return at_once(getattr(self._engine, verb)(*arguments, **named))

    def close(self) -> None:
        at_once(self._engine.close())

    def kill(self) -> None:
        self._store.owners.discard(self.owner_id)


def _open_row(number: int, one: Reservation) -> OpenRow:
    held = one.held
    times = (one.reserved_at_ms, one.deadline_ms)
    return (number, one.owner_id, *times, one.cap, held.cost, held.input_tokens, held.output_tokens, 0, "")


def _entry_row(one: Reservation, ending: Ending) -> EntryRow:
    entry = ending.entry
    amounts, held = entry.amounts, entry.held
    return (
        entry.reservation_id,
        int(entry.kind == 4),
        int(entry.kind),
        one.reserved_at_ms,
        *(amounts.cost, amounts.input_tokens, amounts.output_tokens),
        *(held.cost, held.input_tokens, held.output_tokens),
        int(entry.estimated),
        entry.overrun_cost,
        *(0, 0, ""),
        ending.calls,
        ending.estimated_cost,
    )


class SqliteWorld:
    """A database file, on a disk in memory where there is one; locks belong to open files, as they do to processes."""

    engine = "sqlite"
    has_leases = False

    def __init__(self, clock: FrozenClock, folder: Path) -> None:
        self._clock = clock
        self._path = folder / "ledger.db"
        self._seen: sqlite3.Connection | None = None
        self._identities: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._labels: dict[tuple[int, str], Labels] = {}

    def open(self, limits: tuple[Limit, ...]) -> Session:
        session = _SqliteSession(self._path, limits, self._clock)
        if self._seen is None:
            self._seen = connect_reader(self._path)
        return session

    def know_limits(self) -> None:
        """Other limits were applied."""
        self._identities = dict(self.rows("SELECT limit_id, identity FROM applied_limit"))
        self._numbers = {identity: number for number, identity in self._identities.items()}

    def end_lease(self, owner_id: int) -> None:
        raise AssertionError("it has no leases")

    def has_lease(self, owner_id: int) -> bool:
        raise AssertionError("it has no leases")

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What a query gives, beside the engine."""
        assert self._seen is not None
        return self._seen.execute(query, parameters).fetchall()

    def open_rows(self) -> Mapping[int, OpenRow]:
        return {row[0]: row for row in self.rows(f"SELECT {OPEN_COLUMNS} FROM reservation")}

    def labels(self, row: OpenRow) -> Labels:
        key = row[8:]
        if key not in self._labels:
            ((text,),) = self.rows("SELECT labels FROM label_set WHERE label_set_id = ?", row[8])
            self._labels[key] = json.loads(text) | (json.loads(row[9]) if row[9] else {})
        return self._labels[key]

    def entries(self, ids: Iterable[int] | None) -> Sequence[EntryRow]:
        if ids is None:
            return self.rows(f"SELECT {ENTRY_COLUMNS} FROM entry")
        some = "WHERE reservation_id IN (SELECT value FROM json_each(?)) ORDER BY reservation_id, is_late"
        return self.rows(f"SELECT {ENTRY_COLUMNS} FROM entry {some}", json.dumps(list(ids)))

    def balances(self, keys: Iterable[Key] | None) -> Mapping[Key, BalanceSeen]:
        columns = "amount, ceiling, settled, reserved, overrun"
        if keys is None:
            rows = self.rows(f"SELECT limit_id, subject, window_no, {columns} FROM balance")
            return {(self._identities[row[0]], *row[1:3]): BalanceSeen(*row[3:]) for row in rows}
        found: dict[Key, BalanceSeen] = {}
        one = f"SELECT {columns} FROM balance WHERE limit_id = ? AND subject = ? AND window_no = ?"
        for key in keys:
            for row in self.rows(one, self._numbers[key[0]], key[1], key[2]):
                found[key] = BalanceSeen(*row)
        return found

    def rates(self) -> Mapping[tuple[str, str], int]:
        rows = self.rows("SELECT limit_id, subject, tat_ns FROM rate")
        return {(self._identities[number], subject): tat_ns for number, subject, tat_ns in rows}

    rates_seen = rates

    def close(self) -> None:
        if self._seen is not None:
            self._seen.close()


class _SqliteSession:
    doubtful: Sequence[ReservationId] = ()

    def __init__(self, path: Path, limits: tuple[Limit, ...], clock: FrozenClock) -> None:
        self._writer = SqliteWriter(path, AppliedLimits(limits), clock)
        self._writer.open()
        self._reader = SqliteReader(path, clock)
        self._reader.open()
        self.commits = 0

    @property
    def owner_id(self) -> int:
        return self._writer.owner_id

    def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        outcomes = self._writer.run(operations)
        self.commits += 1
        return outcomes

    def ask(self, verb: str, *arguments: Any, **named: Any) -> Any:
        return getattr(self._reader, verb)(*arguments, **named)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def kill(self) -> None:
        self._reader.close()
        self._writer._owners.release()
        self._writer._connection.close()
        self._writer._lock.close()


def run_in(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run something in the event loop of another thread, and wait for it."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
