"""One batch of operations within one write transaction: read once, decide in Python, write once.

Operations run in the order given, each seeing what the ones before it did. What they change is gathered here and in
the books, and written by `write`, one statement for each table.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from spendfuse.core.decisions import Admitted, Refused, decide
from spendfuse.core.errors import LedgerError, LimitsOutdated, ReservationEnded, ReservationUnknown
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Charge, Entry, EntryKind, ReservationId, reservation_text
from spendfuse.core.windows import MS_PER_S, NS_PER_MS
from spendfuse.ledger.endings import Ending, closed, expired, late, settled_by, voided
from spendfuse.ledger.operations import (
    Extend,
    Outcome,
    Reserve,
    Settle,
    Void,
)
from spendfuse.ledger.sqlite_books import Books, Lines, OpenReservation
from spendfuse.ledger.sqlite_limits import BUCKET_MS
from spendfuse.ledger.sqlite_overruns import note_overrun
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import Demand

_SELECT_RESERVATIONS = sql("sqlite", "select_reservations")
_SELECT_DUE_RESERVATIONS = sql("sqlite", "select_due_reservations")
_SELECT_ENTRIES = sql("sqlite", "select_entries")
_INSERT_RESERVATION = sql("sqlite", "insert_reservation")
_UPDATE_RESERVATION = sql("sqlite", "update_reservation")
_DELETE_RESERVATION = sql("sqlite", "delete_reservation")
_INSERT_ENTRY = sql("sqlite", "insert_entry")
_UPSERT_SPEND = sql("sqlite", "upsert_spend")


@dataclass(slots=True)
class _Ended:
    """A reservation that has ended, with what a late entry needs to know of it."""

    closing: Entry
    reserved_at_ms: int
    label_set_id: int
    fleeting: str
    late: Entry | None = None


@dataclass(slots=True)
class _Changes:
    """Rows to be written, in the order of the columns of their statements."""

    opened: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    extended: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    ended: list[tuple[int]] = field(default_factory=list[tuple[int]])
    entries: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    spend: dict[tuple[int, int], list[int]] = field(default_factory=dict[tuple[int, int], list[int]])


class Batch:
    """The reservations that the operations of a batch name, and what becomes of them."""

    def __init__(self, connection: sqlite3.Connection, books: Books, *, owner_id: int, now_ns: int) -> None:
        self._connection = connection
        self._books = books
        self._owner_id = owner_id
        self._now_ns = now_ns
        self._now_ms = now_ns // NS_PER_MS
        self._open = books.open
        self._ended: dict[ReservationId, _Ended] = {}
        self._changes = _Changes()

    def read(self, ids: Sequence[ReservationId]) -> None:
        """Read the reservations with these ids, open or ended, unless they are known or can't exist."""
        newest_id = self._books.newest_id
        ids = [one for one in ids if one <= newest_id and one not in self._open]
        if not ids:
            return
        for row in self._connection.execute(_SELECT_RESERVATIONS, (json.dumps(ids),)):
            self._remember(row)
        others = [one for one in ids if one not in self._open]
        if others:
            for row in self._connection.execute(_SELECT_ENTRIES, (json.dumps(others),)):
                self._remember_entry(row)

    def reserve(self, operation: Reserve) -> Outcome:
        """See `Ledger.reserve`."""
        demand, books = operation.demand, self._books
        reservation_id = demand.reservation_id
        known = self._open.get(reservation_id)
        if known is not None:
            return Admitted(known.cap, known.held)
        if reservation_id in self._ended:
            return ReservationEnded(f"reservation {reservation_text(reservation_id)} has ended")
        if books.is_outdated:
            return LimitsOutdated("another process applied newer limits to this store: reload the config")
        attribution = books.attribution_of(demand.labels)
        lines = books.lines(attribution, self._now_ms)
        rates = [rate.view() for rate in lines.rates]
        outcome = decide(
            quote=demand.quote,
            caps=demand.caps,
            fit=demand.fit,
            balances=[row.view() for row in lines.balances],
            rates=rates,
            now_ns=self._now_ns,
        )
        if isinstance(outcome, Admitted) and not lines.is_known:
            outcome = self._open_subjects(lines, demand) or outcome
        if isinstance(outcome, Refused):
            return outcome
        books.intern(attribution)
        held = outcome.held
        for row in lines.balances:
            row.reserved += held.of(row.unit)
            row.exists = True
            books.touch_balance(row)
        for rate, state in zip(lines.rates, rates, strict=True):
            rate.tat_ns = state.passed(self._now_ns)
            books.touch_rate(rate)
        self._hold(reservation_id, outcome, demand.deadline_s, attribution.label_set_id, attribution.fleeting)
        return outcome

    def extend(self, operation: Extend) -> bool:
        """See `Ledger.extend`."""
        known = self._open.get(operation.reservation_id)
        if known is None:
            return False
        if operation.cap > known.cap:
            wider = _widest(known.held, operation.quote.at(operation.cap))
            balances = self._books.lines(
                self._books.attribution(known.label_set_id, known.fleeting), known.reserved_at_ms
            ).balances
            more = [(row, wider.of(row.unit) - known.held.of(row.unit)) for row in balances if row.exists]
            if any(n > row.amount - row.settled - row.reserved for row, n in more if n and row.limit.is_enforced):
                return False
            for row, n in more:
                row.reserved += n
                self._books.touch_balance(row)
            known.cap, known.held = operation.cap, wider
        held = known.held
        deadline_ms = self._deadline_ms(operation.deadline_s)
        self._changes.extended.append(
            (known.cap, held.cost, held.input_tokens, held.output_tokens, deadline_ms, known.reservation_id)
        )
        return True

    def settle(self, operation: Settle) -> Outcome:
        """See `Ledger.settle`."""
        reservation_id, charge = operation.reservation_id, operation.charge
        known = self._open.get(reservation_id)
        if known is not None:
            return self._close(known, closed(reservation_id, EntryKind.SETTLED, charge, known.held))
        ended = self._ended.get(reservation_id)
        if ended is None:
            return _unknown(reservation_id)
        if ended.late is not None:
            return ended.late
        if ended.closing.kind is EntryKind.SETTLED:
            return ended.closing
        return self._correct(ended, charge)

    def void(self, operation: Void) -> Outcome:
        """See `Ledger.void`."""
        known = self._open.get(operation.reservation_id)
        if known is not None:
            return self._close(known, voided(operation.reservation_id, known.held))
        ended = self._ended.get(operation.reservation_id)
        return _unknown(operation.reservation_id) if ended is None else ended.closing

    def expire_due(self) -> tuple[Entry, ...]:
        """Charge at its quote whatever is past its deadline or has no owner any more."""
        self.write()
        rows = self._connection.execute(_SELECT_DUE_RESERVATIONS, {"now_ms": self._now_ms}).fetchall()
        due = [self._remember(row) for row in rows]
        return tuple(self._close(one, expired(one.reservation_id, one.held)) for one in due)

    def write(self) -> None:
        """Write what has changed since the last call."""
        changes, self._changes = self._changes, _Changes()
        connection = self._connection
        if changes.opened:
            connection.executemany(_INSERT_RESERVATION, changes.opened)
        if changes.extended:
            connection.executemany(_UPDATE_RESERVATION, changes.extended)
        if changes.ended:
            connection.executemany(_DELETE_RESERVATION, changes.ended)
        if changes.entries:
            connection.executemany(_INSERT_ENTRY, changes.entries)
        if changes.spend:
            connection.executemany(_UPSERT_SPEND, [(*key, *sums) for key, sums in changes.spend.items()])
        self._books.write()

    def _open_subjects(self, lines: Lines, demand: Demand) -> Refused | None:
        refused = self._books.subjects.open(
            lines.subjects,
            key=demand.labels.get("key", ""),
            per_hour=demand.new_subjects_per_hour,
            now_ms=self._now_ms,
        )
        lines.is_known = refused is None
        return refused

    def _hold(
        self,
        reservation_id: ReservationId,
        admitted: Admitted,
        deadline_s: float,
        label_set_id: int,
        fleeting: str,
    ) -> None:
        held = admitted.held
        self._books.newest_id = max(self._books.newest_id, reservation_id)
        self._open[reservation_id] = OpenReservation(
            reservation_id, self._now_ms, admitted.cap, held, label_set_id, fleeting
        )
        self._changes.opened.append(
            (
                reservation_id,
                self._owner_id,
                self._now_ms,
                self._deadline_ms(deadline_s),
                admitted.cap,
                held.cost,
                held.input_tokens,
                held.output_tokens,
                label_set_id,
                fleeting,
            )
        )

    def _close(self, known: OpenReservation, ending: Ending) -> Entry:
        entry, held = ending.entry, known.held
        del self._open[known.reservation_id]
        self._ended[known.reservation_id] = ended = _Ended(
            entry, known.reserved_at_ms, known.label_set_id, known.fleeting
        )
        self._changes.ended.append((known.reservation_id,))
        attribution = self._books.attribution(known.label_set_id, known.fleeting)
        for row in self._books.lines(attribution, known.reserved_at_ms).balances:
            # A balance that nobody has opened yet will open at the fold, this entry included.
            if row.exists:
                row.end(settled=settled_by(row.unit, entry), reserved=-held.of(row.unit))
                self._books.touch_balance(row)
        self._record(ended, ending)
        return entry

    def _correct(self, ended: _Ended, charge: Charge) -> Entry:
        ending = late(ended.closing, charge)
        ended.late = ending.entry
        attribution = self._books.attribution(ended.label_set_id, ended.fleeting)
        for row in self._books.lines(attribution, ended.reserved_at_ms).balances:
            if row.exists:
                row.end(settled=settled_by(row.unit, ending.entry), reserved=0)
                self._books.touch_balance(row)
        self._record(ended, ending)
        return ending.entry

    def _record(self, ended: _Ended, ending: Ending) -> None:
        """Write down an entry, and add it to the rollup of the time in which its call was made."""
        entry, usage = ending.entry, ending.usage
        amounts, held = entry.amounts, entry.held
        is_late = entry.kind is EntryKind.LATE
        self._changes.entries.append(
            (
                entry.reservation_id,
                int(is_late),
                int(entry.kind),
                ended.reserved_at_ms,
                self._now_ms,
                ended.label_set_id,
                ended.fleeting,
                ending.calls,
                amounts.cost,
                amounts.input_tokens,
                amounts.output_tokens,
                held.cost,
                held.input_tokens,
                held.output_tokens,
                int(entry.estimated),
                ending.estimated_cost,
                entry.overrun_cost,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
                usage.cache_write_long_tokens,
                usage.input_audio_tokens,
                usage.cache_read_audio_tokens,
                usage.output_audio_tokens,
                usage.reasoning_tokens,
            )
        )
        key = (ended.reserved_at_ms // BUCKET_MS * BUCKET_MS, ended.label_set_id)
        more = (
            int(not is_late),
            ending.calls,
            amounts.cost,
            amounts.input_tokens,
            amounts.output_tokens,
            ending.estimated_cost,
        )
        if entry.overrun_cost:
            self._note_overrun(ended, entry)
        sums = self._changes.spend.get(key)
        self._changes.spend[key] = list(more) if sums is None else [a + b for a, b in zip(sums, more, strict=True)]

    def _note_overrun(self, ended: _Ended, entry: Entry) -> None:
        target = self._books.attribution(ended.label_set_id, ended.fleeting).labels.get("target")
        if target is not None:
            note_overrun(self._connection, target, entry, reserved_at_ms=ended.reserved_at_ms, now_ms=self._now_ms)

    def _deadline_ms(self, deadline_s: float) -> int:
        return self._now_ms + int(deadline_s * MS_PER_S)

    def _remember(self, row: tuple[int, int, int, int, int, int, int, int, int, str]) -> OpenReservation:
        number, _, reserved_at_ms, _, cap, cost, input_tokens, output_tokens, label_set_id, fleeting = row
        held = Amounts(Nanos(cost), input_tokens, output_tokens)
        known = OpenReservation(ReservationId(number), reserved_at_ms, cap, held, label_set_id, fleeting)
        self._open[known.reservation_id] = known
        return known

    def _remember_entry(self, row: tuple[int, int, int, int, int, int, int, int, int, int, int, int, str]) -> None:
        entry = Entry(
            reservation_id=ReservationId(row[0]),
            kind=EntryKind(row[1]),
            amounts=Amounts(Nanos(row[2]), row[3], row[4]),
            held=Amounts(Nanos(row[5]), row[6], row[7]),
            estimated=bool(row[8]),
            overrun_cost=Nanos(row[9]),
        )
        if entry.kind is EntryKind.LATE:
            self._ended[entry.reservation_id].late = entry
        else:
            self._ended[entry.reservation_id] = _Ended(entry, row[10], row[11], row[12])


def _unknown(reservation_id: ReservationId) -> LedgerError:
    return ReservationUnknown(f"no reservation has the id {reservation_text(reservation_id)}")


def _widest(held: Amounts, wanted: Amounts) -> Amounts:
    """A reservation is raised, never lowered, in any unit."""
    return Amounts(
        max(held.cost, wanted.cost),
        max(held.input_tokens, wanted.input_tokens),
        max(held.output_tokens, wanted.output_tokens),
    )
