"""What the operations of one batch decide and change, whatever the database; engines read before and write after.

Operations run in the order given, each seeing what the ones before it did. What they change is gathered in `Changes`
and in the books, and an engine writes both, one statement for each table.
"""

from spendfuse.core.decisions import Admitted, Refused, decide
from spendfuse.core.errors import (
    LedgerError,
    LimitsOutdated,
    ReservationEnded,
    ReservationForgotten,
    ReservationUnknown,
)
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Charge, Entry, EntryKind, ReservationId, minted_at_ms, reservation_text
from spendfuse.core.thresholds import next_share_at, shares_reached, threshold_alert
from spendfuse.core.windows import MS_PER_S, NS_PER_MS
from spendfuse.ledger.changes import BatchBooks, Changes
from spendfuse.ledger.endings import Ending, closed, expired, late, overrun_alert, settled_by, voided
from spendfuse.ledger.folding import BUCKET_MS
from spendfuse.ledger.operations import Extend, Outcome, Record, Reserve, Settle, Void
from spendfuse.ledger.rows import Attribution, BalanceRow, EndedReservation, OpenReservation


class Batch:
    """The reservations that the operations of a batch name, and what becomes of them.

    `open_` holds every open one of them, and receives those that this batch opens.
    """

    def __init__(
        self, books: BatchBooks, open_: dict[ReservationId, OpenReservation], *, owner_id: int, now_ns: int
    ) -> None:
        self._books = books
        self._open = open_
        self._owner_id = owner_id
        self._now_ns = now_ns
        self._now_ms = now_ns // NS_PER_MS
        self._ended: dict[ReservationId, EndedReservation] = {}
        self._changes = Changes()

    def reserve(self, operation: Reserve) -> Outcome:
        """See `Ledger.reserve`."""
        demand, books = operation.demand, self._books
        reservation_id = demand.reservation_id
        known = self._open.get(reservation_id)
        if known is not None:
            return Admitted(known.cap, known.held)
        if reservation_id in self._ended:
            return ReservationEnded(f"reservation {reservation_text(reservation_id)} has ended")
        if minted_at_ms(reservation_id) < books.horizon_ms:
            return _forgotten(reservation_id)
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
            refused = books.open_subjects(lines, demand, self._now_ms)
            lines.is_known = refused is None
            outcome = refused or outcome
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
        self._hold(reservation_id, outcome, demand.deadline_s, attribution)
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
            # Shadow balances have no ceiling. A window that is over stays as it ended, whatever was applied since.
            if any(n > row.amount - row.settled - row.reserved for row, n in more if n and row.ceiling is not None):
                return False
            for row, n in more:
                row.reserved += n
                self._books.touch_balance(row)
            known.cap, known.held = operation.cap, wider
        held = known.held
        known.deadline_ms = self._deadline_ms(operation.deadline_s)
        self._changes.extended.append(
            (known.cap, held.cost, held.input_tokens, held.output_tokens, known.deadline_ms, known.reservation_id)
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
            return self._unknown(reservation_id)
        if ended.late is not None:
            return ended.late
        if ended.closing.kind is EntryKind.SETTLED:
            return ended.closing
        return self._correct(ended, charge)

    def record(self, operation: Record) -> Outcome:
        """See `Ledger.record`."""
        demand, books, reservation_id = operation.demand, self._books, operation.reservation_id
        if reservation_id in self._open or reservation_id in self._ended:
            return self.settle(Settle(reservation_id, operation.charge))
        at_ms = min(operation.at_ms, self._now_ms)
        if at_ms < books.horizon_ms:
            # It may have been written down already.
            return _forgotten(reservation_id)
        attribution = books.attribution_of(demand.labels)
        lines = books.lines(attribution, at_ms)
        if not lines.is_known:
            books.note_subjects(lines)
            lines.is_known = True
        books.intern(attribution)
        ending = closed(reservation_id, EntryKind.SETTLED, operation.charge, demand.quote.at(demand.caps.wanted))
        for row in lines.balances:
            if row.exists or self._opens_late(row):
                row.exists = True
                self._end(row, settled=settled_by(row.unit, ending.entry), reserved=0)
        for rate in lines.rates:
            rate.tat_ns = rate.view().passed(at_ms * NS_PER_MS)
            books.touch_rate(rate)
        ended = EndedReservation(ending.entry, at_ms, attribution.label_set_id, attribution.fleeting)
        self._ended[reservation_id] = ended
        self._record(ended, ending)
        return ending.entry

    def void(self, operation: Void) -> Outcome:
        """See `Ledger.void`."""
        known = self._open.get(operation.reservation_id)
        if known is not None:
            return self._close(known, voided(operation.reservation_id, known.held))
        ended = self._ended.get(operation.reservation_id)
        return self._unknown(operation.reservation_id) if ended is None else ended.closing

    def expire(self, due: list[OpenReservation]) -> tuple[Entry, ...]:
        """Charge these at their quotes."""
        return tuple(self._close(one, expired(one.reservation_id, one.held)) for one in due)

    def _take_changes(self) -> Changes:
        """What has changed since the last call."""
        changes, self._changes = self._changes, Changes()
        return changes

    def _hold(
        self, reservation_id: ReservationId, admitted: Admitted, deadline_s: float, attribution: Attribution
    ) -> None:
        held, deadline_ms = admitted.held, self._deadline_ms(deadline_s)
        label_set_id, fleeting = attribution.label_set_id, attribution.fleeting
        self._open[reservation_id] = OpenReservation(
            reservation_id, self._now_ms, deadline_ms, admitted.cap, held, label_set_id, fleeting
        )
        self._changes.opened.append(
            (
                reservation_id,
                self._owner_id,
                self._now_ms,
                deadline_ms,
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
        self._ended[known.reservation_id] = ended = EndedReservation(
            entry, known.reserved_at_ms, known.label_set_id, known.fleeting
        )
        self._changes.ended.append((known.reservation_id,))
        attribution = self._books.attribution(known.label_set_id, known.fleeting)
        for row in self._books.lines(attribution, known.reserved_at_ms).balances:
            # A balance that nobody has opened yet will open at the fold, this entry included.
            if row.exists:
                self._end(row, settled=settled_by(row.unit, entry), reserved=-held.of(row.unit))
        self._record(ended, ending)
        return entry

    def _end(self, row: BalanceRow, *, settled: int, reserved: int) -> None:
        row.end(settled=settled, reserved=reserved)
        self._books.touch_balance(row)
        if row.settled >= row.alerts_from:
            self._note_thresholds(row)

    def _note_thresholds(self, row: BalanceRow) -> None:
        """Invariant 16: an alert for each share that is reached, in the transaction that reached it, unless it is there
        already. Nobody needs to hear of a window that is over.
        """
        amount, settled = row.amount, row.settled
        row.alerts_from = next_share_at(row.limit, amount=amount, settled=settled)
        if row.window.holds(self._now_ms):
            self._changes.alerts += [
                threshold_alert(row.limit, row.subject, row.window, share=share, amount=amount, settled=settled)
                for share in shares_reached(row.limit, amount=amount, settled=settled)
            ]

    def _opens_late(self, row: BalanceRow) -> bool:
        """Whether a call that held nothing opens this balance: not where its window was over before its limit was in
        force, as such windows have no balances.
        """
        stored, ends_at_ms = self._books.stored_limit(row.limit.name), row.window.ends_at_ms
        return ends_at_ms is None or (stored is not None and stored.active_since_ms < ends_at_ms)

    def _correct(self, ended: EndedReservation, charge: Charge) -> Entry:
        ending = late(ended.closing, charge)
        ended.late = ending.entry
        attribution = self._books.attribution(ended.label_set_id, ended.fleeting)
        for row in self._books.lines(attribution, ended.reserved_at_ms).balances:
            if row.exists:
                self._end(row, settled=settled_by(row.unit, ending.entry), reserved=0)
        self._record(ended, ending)
        return ending.entry

    def _record(self, ended: EndedReservation, ending: Ending) -> None:
        """Write down an entry, and add it to the rollup of the time in which its call was made."""
        entry, amounts = ending.entry, ending.entry.amounts
        self._changes.entries.append(_entry_row(ended, ending, self._now_ms))
        key = (ended.reserved_at_ms // BUCKET_MS * BUCKET_MS, ended.label_set_id)
        more = (
            int(entry.kind is not EntryKind.LATE),
            ending.calls,
            amounts.cost,
            amounts.input_tokens,
            amounts.output_tokens,
            ending.estimated_cost,
        )
        sums = self._changes.spend.get(key)
        self._changes.spend[key] = list(more) if sums is None else [a + b for a, b in zip(sums, more, strict=True)]
        if entry.overrun_cost:
            self._note_overrun(ended, entry)

    def _note_overrun(self, ended: EndedReservation, entry: Entry) -> None:
        target = self._books.attribution(ended.label_set_id, ended.fleeting).labels.get("target")
        if target is None:
            return
        now_ms = self._now_ms
        first = self._books.note_overrun(target, entry, reserved_at_ms=ended.reserved_at_ms, now_ms=now_ms)
        if first is not None:
            self._changes.alerts.append(overrun_alert(first, entry))

    def _unknown(self, reservation_id: ReservationId) -> LedgerError:
        if minted_at_ms(reservation_id) < self._books.horizon_ms:
            return _forgotten(reservation_id)
        return ReservationUnknown(f"no reservation has the id {reservation_text(reservation_id)}")

    def _deadline_ms(self, deadline_s: float) -> int:
        return self._now_ms + int(deadline_s * MS_PER_S)

    def _remember(self, row: tuple[int, int, int, int, int, int, int, int, int, str]) -> OpenReservation:
        """An open reservation as read: in the order of `Changes.opened`."""
        number, _, reserved_at_ms, deadline_ms, cap, cost, input_tokens, output_tokens, label_set_id, fleeting = row
        held = Amounts(Nanos(cost), input_tokens, output_tokens)
        known = OpenReservation(ReservationId(number), reserved_at_ms, deadline_ms, cap, held, label_set_id, fleeting)
        self._open[known.reservation_id] = known
        return known

    def _remember_entry(self, row: tuple[int, int, int, int, int, int, int, int, int, int, int, int, str]) -> None:
        """An entry as read, the closing one before the late one."""
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
            self._ended[entry.reservation_id] = EndedReservation(entry, row[10], row[11], row[12])


def _entry_row(ended: EndedReservation, ending: Ending, now_ms: int) -> tuple[object, ...]:
    """In the order of the columns of `entry`."""
    entry, usage = ending.entry, ending.usage
    amounts, held = entry.amounts, entry.held
    return (
        entry.reservation_id,
        int(entry.kind is EntryKind.LATE),
        int(entry.kind),
        ended.reserved_at_ms,
        now_ms,
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


def _forgotten(reservation_id: ReservationId) -> LedgerError:
    return ReservationForgotten(
        f"reservation {reservation_text(reservation_id)} is older than the retention: whatever became of it is settled"
    )


def _widest(held: Amounts, wanted: Amounts) -> Amounts:
    """A reservation is raised, never lowered, in any unit."""
    return Amounts(
        max(held.cost, wanted.cost),
        max(held.input_tokens, wanted.input_tokens),
        max(held.output_tokens, wanted.output_tokens),
    )
