"""One batch of operations within one transaction: lock and read in one call, decide in Python, write in one call.

See `docs/decisions/0013` for why the decision isn't made by the database.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Entry, ReservationId
from spendfuse.core.subjects import hour_of
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.batch import Batch
from spendfuse.ledger.operations import CountRefusals, ExpireDue, Extend, Operation, Record, Reserve, Settle, Void
from spendfuse.ledger.postgres_alerts import insert_alerts
from spendfuse.ledger.postgres_books import PostgresBooks
from spendfuse.ledger.postgres_connection import PostgresConnection, Row
from spendfuse.ledger.rows import Attribution, OpenReservation
from spendfuse.ledger.statements import sql

_LOCK_ROWS = sql("postgres", "lock_rows")
_WRITE_ROWS = sql("postgres", "write_rows")
_SELECT_NAMED = sql("postgres", "select_named")
_SELECT_DUE = sql("postgres", "select_due")
_SELECT_OWNERLESS = sql("postgres", "select_ownerless")
_SELECT_ENTRIES = sql("postgres", "select_entries")


@dataclass(frozen=True, slots=True)
class _Named:
    """Whose a reservation is. `held_cost` may have been raised since; it never falls."""

    attribution: Attribution
    reserved_at_ms: int
    held_cost: int


class PostgresBatch(Batch):
    """A batch whose rows are locked. `is_owner` is False when this process was taken for dead."""

    def __init__(self, books: PostgresBooks, *, owner_id: int, now_ns: int, is_owner: bool) -> None:
        super().__init__(books, {}, owner_id=owner_id, now_ns=now_ns)
        self._rows = books
        self._ownerless: set[ReservationId] = set()
        self._refusals: Counter[tuple[object, ...]] = Counter()
        self.is_owner = is_owner

    @property
    def now_ns(self) -> int:
        """The store's time once all locks were held."""
        return self._now_ns

    def open_as_read(self, known: OpenReservation, *, is_ownerless: bool) -> None:
        """A reservation that was found open, under its lock."""
        self._open[known.reservation_id] = known
        if is_ownerless:
            self._ownerless.add(known.reservation_id)

    def ended_as_read(self, row: Row) -> None:
        """An entry that was found, the closing one before the late one."""
        self._remember_entry(row)

    def expire_due(self) -> tuple[Entry, ...]:
        """Charge at its quote whatever is past its deadline or had no owner any more."""
        due = [
            one
            for number, one in sorted(self._open.items())
            if one.label_set_id and (one.deadline_ms <= self._now_ms or number in self._ownerless)
        ]
        return self.expire(due)

    def count_refusals(self, operation: CountRefusals) -> None:
        """See `Ledger.count_refusals`."""
        hour_ms = hour_of(self._now_ms)
        for one in operation.counts:
            key = (hour_ms, one.code, one.limit_name, one.feature, one.user, int(one.shadow))
            self._refusals[key] += one.count

    async def write(self, connection: PostgresConnection) -> None:
        """Write what has changed; nothing is durable yet."""
        changes = self._take_changes()
        rows = self._rows.changed_rows(self._now_ns)
        reservations: list[list[object]] = [
            list(changes.opened),
            list({row[-1]: row for row in changes.extended}.values()),
            [number for (number,) in changes.ended],
            list(changes.entries),
            [(*key, *sums) for key, sums in changes.spend.items()],
            self._rows.changed_overruns(),
            [(*key, count) for key, count in self._refusals.items()],
        ]
        if any(rows) or any(reservations):
            await connection.row(_WRITE_ROWS, *rows, *reservations)
        if changes.alerts:
            await insert_alerts(connection, changes.alerts, self._now_ms)

    def remember(self) -> None:
        """What was written has been committed."""
        known = self._rows.known
        for number in self._ended:
            known.pop(number, None)
        for number, one in self._open.items():
            if one.label_set_id:
                known[number] = one


class Locking:
    """Locks what the operations of one batch may touch; with `has_ownerless`, what dead owners left among it."""

    def __init__(
        self,
        connection: PostgresConnection,
        books: PostgresBooks,
        operations: Sequence[Operation],
        *,
        has_ownerless: bool,
    ) -> None:
        self._has_ownerless = has_ownerless
        self._connection = connection
        self._books = books
        self._operations = operations
        self._named: dict[ReservationId, _Named] = {}
        self._ownerless: set[ReservationId] = set()

    async def lock(self, *, owner_id: int, clock_ns: int | None, now_ns: int) -> PostgresBatch:
        """All rows locked, and how they stand. `clock_ns` overrules the store's clock, and `now_ns` is about its time.

        Raises:
            StartAgain: what was remembered of the store is wrong.
        """
        self._books.trim()
        await self._read_names(clock_ns)
        while True:
            self._plan(now_ns // NS_PER_MS)
            books = self._books
            record = await self._connection.record(
                _LOCK_ROWS, clock_ns, books.revision, owner_id, *books.lock_parameters()
            )
            if record["revision"] == books.revision:
                break
            # Only the store's lock has been taken, so nothing is out of order.
            await books.reload(self._connection)
            await self._read_names(clock_ns)
        books.load(record)
        batch = PostgresBatch(books, owner_id=owner_id, now_ns=record["now_ns"], is_owner=record["is_owner"])
        await self._load_reservations(batch, record)
        return batch

    async def _read_names(self, clock_ns: int | None) -> None:
        """Learn whose the reservations are that this process doesn't know, which decides what to lock."""
        self._named.clear()
        self._ownerless.clear()
        strangers: list[int] = []
        for operation in self._operations:
            if isinstance(operation, Settle | Void | Extend | Record):
                known = self._books.known.get(operation.reservation_id)
                if known is not None and self._books.remembers_labels(known.label_set_id, known.fleeting):
                    attribution = self._books.attribution(known.label_set_id, known.fleeting)
                    self._named[known.reservation_id] = _Named(attribution, known.reserved_at_ms, known.held.cost)
                else:
                    strangers.append(operation.reservation_id)
        if strangers:
            for row in await self._connection.rows(_SELECT_NAMED, strangers):
                self._name(*row)
        if any(isinstance(operation, ExpireDue) for operation in self._operations):
            clock_ms = None if clock_ns is None else clock_ns // NS_PER_MS
            for row in await self._connection.rows(_SELECT_DUE, clock_ms):
                self._name(*row)
            if self._has_ownerless:
                for row in await self._connection.rows(_SELECT_OWNERLESS):
                    self._name(*row)
                    self._ownerless.add(row[0])

    def _name(
        self, number: int, reserved_at_ms: int, held_cost: int, label_set_id: int, fleeting: str, stored: str
    ) -> None:
        attribution = self._books.remember_labels(label_set_id, fleeting, stored)
        self._named[ReservationId(number)] = _Named(attribution, reserved_at_ms, held_cost)

    def _plan(self, now_ms: int) -> None:
        books, planned = self._books, self._books.plan()
        for named in self._named.values():
            books.plan_lines(named.attribution, named.reserved_at_ms)
        planned.reservation_ids.update(dict.fromkeys(self._named))
        for operation in self._operations:
            if isinstance(operation, Reserve):
                planned.reservation_ids[operation.reservation_id] = None
                books.plan_demand(operation.demand, now_ms)
            elif isinstance(operation, Settle):
                self._plan_overrun(operation)
            elif isinstance(operation, Record):
                planned.reservation_ids[operation.reservation_id] = None
                # Where it is known it is settled, else it is written down as a call of its own time.
                self._plan_overrun(operation)
                books.plan_demand(operation.demand, min(operation.at_ms, now_ms))

    def _plan_overrun(self, operation: Settle | Record) -> None:
        named = self._named.get(operation.reservation_id)
        if named is not None:
            labels, held_cost = named.attribution.labels, named.held_cost
        elif isinstance(operation, Record):
            labels, held_cost = operation.demand.labels, operation.demand.quote.at(operation.demand.caps.wanted).cost
        else:
            return
        target = labels.get("target")
        if target is not None and operation.charge.cost > held_cost:
            self._books.planned.targets[target] = None

    async def _load_reservations(self, batch: PostgresBatch, record: Mapping[str, Any]) -> None:
        columns = [record[name] or () for name in _OPEN_COLUMNS]
        for number, deadline_ms, cap, cost, input_tokens, output_tokens in zip(*columns, strict=True):
            held = Amounts(Nanos(cost), input_tokens, output_tokens)
            named = self._named.get(number)
            batch.open_as_read(
                OpenReservation(
                    ReservationId(number),
                    0 if named is None else named.reserved_at_ms,
                    deadline_ms,
                    cap,
                    held,
                    0 if named is None else named.attribution.label_set_id,
                    "" if named is None else named.attribution.fleeting,
                ),
                is_ownerless=number in self._ownerless,
            )
        if record["ended_ids"]:
            for row in await self._connection.rows(_SELECT_ENTRIES, record["ended_ids"]):
                batch.ended_as_read(row)


_OPEN_COLUMNS = ("open_ids", "deadlines_ms", "caps", "costs", "input_tokens", "output_tokens")
