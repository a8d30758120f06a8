"""The invariants, checked on what a store shows after every commit; each names itself when it is broken.

`Checker.committed` learns what was asked and answered, looks at the rows that can have changed, and lets nothing pass
that neither the question nor the answer explains. `check_everything` reads the whole store anew.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from world_books import Account, Books, Sum, Violated
from world_store import BalanceSeen, EntryRow, Key, OpenRow, Store

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Admitted, Refused
from spendfuse.core.limits import Limit
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Entry, EntryKind, ReservationId, reservation_text
from spendfuse.core.windows import NS_PER_MS, Span
from spendfuse.ledger.applied import window_of
from spendfuse.ledger.operations import (
    ApplyLimits,
    CallOperation,
    ExpireDue,
    Extend,
    Operation,
    Outcome,
    Record,
    Reserve,
    SetAmount,
    Settle,
)
from spendfuse.ledger.store import BalanceLine

Asked = Sequence[tuple[Operation, Outcome]]


class Checker:
    """Looks at a store from outside."""

    def __init__(self, store: Store, every: Iterable[Limit], clock: FrozenClock) -> None:
        limits = list(every)
        self.store = store
        self.books = Books(limits)
        self._clock = clock
        self._rates: dict[tuple[str, str], int] = {}
        self._passed: dict[tuple[str, str], deque[int]] = defaultdict(deque)
        """When calls were admitted under each rate."""
        self.rate_limits: list[Limit] = []
        self.fresh: set[int] = set()
        """Reservations that were made by the last commit."""
        self.ended: list[Account] = []
        """Reservations that it gave entries."""

    @property
    def now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS

    def applied(self, limits: Sequence[Limit]) -> None:
        """A process applied these limits."""
        self._apply(limits)
        self._rates = dict(self.store.rates())
        self._check_balances(self.store.balances(None))

    def committed(self, asked: Asked, *, voided: Sequence[ReservationId] = ()) -> None:
        """A batch was committed, its operations with these outcomes; `voided` before them, with nobody to tell."""
        self.ended, self.fresh = [], set()
        for operation, outcome in asked:
            if isinstance(operation, SetAmount) and outcome is None:
                self._set_amount(operation)
            elif isinstance(operation, ApplyLimits) and outcome is None:
                self._apply(operation.applied.limits)
            elif isinstance(operation, ExpireDue) and isinstance(outcome, tuple):
                self.books.end_amounts(self.now_ms)
        touched = self._see(asked, voided)
        keys = {key for account in touched for _, key in account.keys if self.books.counts(key)}
        is_refusal = bool(asked) and all(isinstance(outcome, Refused) for _, outcome in asked) and not voided
        for operation, outcome in asked:
            if isinstance(outcome, Refused) and isinstance(operation, Reserve):
                keys |= {
                    key for _, key in self.books.keys_of(operation.demand.labels, self.now_ms) if self.books.counts(key)
                }
        self._check_answers(asked)
        self._check_admissions(asked)
        self._check_sums(keys)
        self._check_rates(asked, is_refusal=is_refusal)
        self._check_balances(self.store.balances(sorted(keys)), wanted=keys, number=4 if is_refusal else 8)

    def unchanged(self, asked: Asked) -> None:
        """A batch that only repeats what was committed before; its outcomes have been compared by others."""
        before = {number: one.row for number, one in self.books.open.items()}
        entries = {one.reservation_id for one, _ in asked if isinstance(one, CallOperation)}
        known = [row for one in sorted(entries) for row in self.books.accounts[one].entries]
        if dict(self.store.open_rows()) != before or list(self.store.entries(sorted(entries))) != known:
            raise Violated(6, f"repeating changed something: {[one for one, _ in asked]}")
        keys = {key for one in entries for _, key in self.books.accounts[one].keys if self.books.counts(key)}
        self._check_balances(self.store.balances(sorted(keys)), number=6)
        if dict(self.store.rates_seen()) != self._rates:
            raise Violated(6, f"repeating changed a rate: {[one for one, _ in asked]}")

    def check_everything(self) -> None:
        """The whole store against all that was seen of it."""
        entries: dict[int, list[EntryRow]] = defaultdict(list)
        for row in self.store.entries(None):
            entries[row[0]].append(row)
        for number, account in self.books.accounts.items():
            if entries.pop(number, []) != account.entries:
                raise Violated(14, f"the entries of {reservation_text(ReservationId(number))} are others than before")
        if entries:
            raise Violated(5, f"entries of reservations that were never made: {sorted(entries)}")
        if dict(self.store.open_rows()) != {number: one.row for number, one in self.books.open.items()}:
            raise Violated(6, "a reservation changed although nothing was asked of it")
        self._check_balances(self.store.balances(None))
        self._check_sums([key for key in self.books.sums if self.books.counts(key)])

    def check_lines(self, lines: Sequence[BalanceLine]) -> None:
        """What the engine lists as its current balances."""
        by_name = {limit.name: identity for identity, limit in self.books.limits.items()}
        for line in lines:
            identity = by_name.get(line.limit_name)
            if identity is not None:
                limit = self.books.limits[identity]
                total = self.books.sums.get((identity, line.subject, window_of(limit, self.now_ms).number), Sum())
                if (line.settled, line.reserved) != (total.settled, total.reserved):
                    raise Violated(8, f"{line} is listed, its rows add up to {total}")
                if line.amount != self.books.amount_of(identity, line.subject):
                    raise Violated(3, f"{line} is listed")

    def check_kept(self, before_ms: int, dead: set[int]) -> None:
        """A keeper has run: nothing is open whose deadline or whose owner's end lies before."""
        for account in self.books.open.values():
            if account.row[3] <= before_ms or account.row[1] in dead:
                raise Violated(12, f"{_named(account)} is open still, due at {account.row[3]}, owner {account.row[1]}")

    def _apply(self, limits: Sequence[Limit]) -> None:
        self.store.know_limits()
        self.books.applied(limits, self.now_ms)
        self.rate_limits = [one for one in limits if one.is_rate]
        self._passed.clear()

    def _set_amount(self, operation: SetAmount) -> None:
        for identity, limit in self.books.limits.items():
            if limit.name == operation.limit_name:
                self.books.set_amount(identity, operation.subject, operation.amount, operation.until_ms)

    def _see(self, asked: Asked, voided: Sequence[ReservationId]) -> list[Account]:
        """Learn what has changed; every change must be one that was asked for."""
        rows, books = self.store.open_rows(), self.books
        wanted = {one.reservation_id: (one, outcome) for one, outcome in asked if isinstance(one, CallOperation)}
        may_expire = any(isinstance(one, ExpireDue) for one, _ in asked)
        touched: list[Account] = []
        for number, row in rows.items():
            account = books.accounts.get(number)
            if account is None:
                touched.append(self._see_new(row, asked))
            elif account.entries:
                raise Violated(5, f"{_named(account)} is open again after its end")
            elif account.row != row:
                self._see_changed(account, row, asked)
                touched.append(account)
        gone = [number for number in books.open if number not in rows]
        for entry in self.store.entries(sorted({*wanted, *gone, *voided})):
            account = books.accounts.get(entry[0]) or self._unseen(entry, asked)
            if entry in account.entries:
                continue
            if any(entry[1] == one[1] for one in account.entries):
                raise Violated(14, f"an entry of {_named(account)} was {account.entries}, and now is {entry}")
            if not (entry[0] in wanted or entry[0] in voided or may_expire):
                raise Violated(6, f"{_named(account)} ended although nobody asked for it")
            if not account.entries and entry[7:10] != account.row[5:8] and _was_extended(account, asked):
                # Extended and ended within one batch.
                books.changed(account, (*account.row[:5], *entry[7:10], *account.row[8:]))
            self._check_entry(account, entry, is_open=entry[0] in rows)
            books.ended(account, entry)
            self.ended.append(account)
            touched.append(account)
        for number in gone:
            if number in books.open:
                raise Violated(5, f"{_named(books.open[number])} vanished without an entry")
        return touched

    def _see_new(self, row: OpenRow, asked: Asked) -> Account:
        number = row[0]
        outcomes = [out for one, out in asked if isinstance(one, Reserve) and one.reservation_id == number]
        if not any(isinstance(one, Admitted) for one in outcomes):
            was_refused = any(isinstance(one, Refused) for one in outcomes)
            text = reservation_text(ReservationId(number))
            raise Violated(4 if was_refused else 6, f"{text} is held, but was answered {outcomes}")
        if row[2] != self.now_ms:
            raise Violated(9, f"{reservation_text(ReservationId(number))} was made at {row[2]}, not {self.now_ms}")
        self.fresh.add(number)
        return self.books.opened(row, self.store.labels(row))

    def _see_changed(self, account: Account, row: OpenRow, asked: Asked) -> None:
        if row[2] != account.row[2]:
            raise Violated(9, f"{_named(account)} moved to another time")
        if not _was_extended(account, asked) or any(
            now < before for now, before in zip(row[4:8], account.row[4:8], strict=True)
        ):
            raise Violated(6, f"{_named(account)} became {row}, from {account.row}")
        self.books.changed(account, row)

    def _unseen(self, entry: EntryRow, asked: Asked) -> Account:
        """Made and ended within one batch."""
        for one, outcome in asked:
            if isinstance(one, Reserve) and one.reservation_id == entry[0] and isinstance(outcome, Admitted):
                held = outcome.held
                times = (self.now_ms, self.now_ms + int(one.demand.deadline_s * 1_000))
                amounts = (held.cost, held.input_tokens, held.output_tokens)
                self.fresh.add(entry[0])
                return self.books.opened((entry[0], 0, *times, outcome.cap, *amounts, 0, ""), one.demand.labels)
            if isinstance(one, Record) and one.reservation_id == entry[0]:
                demand = one.demand
                held, at_ms = demand.quote.at(demand.caps.wanted), min(one.at_ms, self.now_ms)
                return self.books.recorded(entry[0], demand.labels, at_ms, held)
        raise Violated(5, f"an entry of {reservation_text(ReservationId(entry[0]))}, which was never made")

    def _check_entry(self, account: Account, entry: EntryRow, *, is_open: bool) -> None:
        _, is_late, kind, reserved_at_ms, cost, *_ = entry
        held, name = entry[7:10], _named(account)
        if is_open:
            raise Violated(5, f"{name} has an entry and is open still")
        if bool(is_late) != (kind == EntryKind.LATE) or len(account.entries) != is_late:
            raise Violated(5, f"{name} has {account.entries}, and now {entry}")
        if is_late and account.entries[0][2] == EntryKind.SETTLED:
            raise Violated(5, f"{name} was settled, and then once more")
        if reserved_at_ms != account.reserved_at_ms:
            raise Violated(9, f"{name} counts at {reserved_at_ms}, but was made at {account.reserved_at_ms}")
        if held != account.row[5:8] or any(a < b for a, b in zip(held, account.first_held, strict=True)):
            raise Violated(6, f"{name} held {account.row[5:8]}, its entry says {held}")
        if kind == EntryKind.EXPIRED and (tuple(entry[4:7]) != held or not entry[10]):
            raise Violated(11, f"{name} expired at {entry[4:7]}, not at its quote {held}")
        if kind == EntryKind.VOIDED and any(entry[4:7]):
            raise Violated(11, f"{name} was voided at {entry[4:7]}")
        if kind == EntryKind.SETTLED and entry[11] != max(0, cost - held[0]):
            raise Violated(3, f"{name} settled at {cost} of {held[0]} with an overrun of {entry[11]}")

    def _check_answers(self, asked: Asked) -> None:
        """What callers are told is what the store holds."""
        accounts = self.books.accounts
        for operation, outcome in asked:
            if isinstance(outcome, Entry):
                _check_told(accounts.get(outcome.reservation_id), outcome)
                if isinstance(operation, Settle | Record):
                    self._check_settled(accounts[outcome.reservation_id], asked)
            elif isinstance(outcome, tuple):
                for entry in outcome:
                    if isinstance(entry, Entry):
                        _check_told(accounts.get(entry.reservation_id), entry)
            elif isinstance(outcome, Admitted) and isinstance(operation, Reserve):
                account = accounts.get(operation.reservation_id)
                if account is None:
                    raise Violated(13, f"{operation.reservation_id} was admitted, and isn't in the store")

    def _check_settled(self, account: Account, asked: Asked) -> None:
        """What a reservation was settled at by this commit is what was asked."""
        if account not in self.ended or account.entries[-1][2] not in (EntryKind.SETTLED, EntryKind.LATE):
            return
        charges = [
            one.charge for one, _ in asked if isinstance(one, Settle | Record) and one.reservation_id == account.number
        ]
        if account.charged not in [charge.cost for charge in charges]:
            raise Violated(7, f"{_named(account)} was charged {account.charged}, to be charged were {charges}")

    def _check_admissions(self, asked: Asked) -> None:
        books = self.books
        may_overrun = False
        for operation, outcome in reversed(asked):
            may_overrun = may_overrun or isinstance(operation, Settle | Record)
            if may_overrun or not isinstance(operation, Reserve) or not isinstance(outcome, Admitted):
                continue
            account = books.accounts[operation.reservation_id]
            if account.number not in self.fresh:
                continue
            for _, key in account.keys:
                limit = books.limits.get(key[0])
                if limit is None or not limit.is_enforced:
                    continue
                amount, total = books.amount_of(*key[:2]), books.sums[key]
                if total.committed > amount:
                    raise Violated(2, f"{_named(account)}: {limit.name} {key[1]} holds {total}, its amount is {amount}")

    def _check_sums(self, keys: Iterable[Key]) -> None:
        for key in keys:
            total = self.books.sums[key]
            if total.settled < 0 or total.reserved < 0:
                raise Violated(1, f"{key} is {total}")
            limit = self.books.limits[key[0]]
            total.highest = max(total.highest, self.books.amount_of(*key[:2]))
            if limit.is_enforced and not total.ended_as_shadow and total.committed > total.highest + total.excess:
                raise Violated(3, f"{key} is {total}")

    def _check_rates(self, asked: Asked, *, is_refusal: bool) -> None:
        now_ns = self._clock.now_ns()
        rates = dict(self.store.rates_seen())
        if is_refusal and rates != self._rates:
            raise Violated(4, f"a refusal moved a rate: {self._rates} became {rates}")
        self._rates = rates
        for operation, outcome in asked:
            if not isinstance(operation, Reserve) or not isinstance(outcome, Admitted):
                continue
            if operation.reservation_id not in self.fresh:
                continue
            for limit in self.rate_limits:
                if limit.covers(operation.demand.labels):
                    self._pass(limit, limit.subject_of(operation.demand.labels), now_ns)

    def _pass(self, limit: Limit, subject: str, now_ns: int) -> None:
        assert isinstance(limit.period, Span)
        passed = self._passed[limit.identity, subject]
        passed.append(now_ns)
        while passed[0] <= now_ns - limit.period.ms * NS_PER_MS:
            passed.popleft()
        most = limit.amount + (limit.amount if limit.burst is None else limit.burst)
        if limit.is_enforced and len(passed) > most:
            raise Violated(2, f"{len(passed)} calls of {subject} within a span of {limit.name}")

    def _check_balances(self, seen: Mapping[Key, BalanceSeen], *, wanted: Iterable[Key] = (), number: int = 8) -> None:
        for key, balance in seen.items():
            limit = self.books.limits.get(key[0])
            if limit is None:
                raise Violated(8, f"{key} is the balance of a limit that is not in force")
            total = self.books.sums[key]
            if balance.settled < 0 or balance.reserved < 0:
                raise Violated(1, f"{key} is stored as {balance}")
            if (balance.settled, balance.reserved) != (total.settled, total.reserved):
                raise Violated(number, f"{key} is stored as {balance}, its rows add up to {total}")
            # A window that was over when a limit began to be enforced, or ceased to be, stays as it was.
            is_over = key[2] < window_of(limit, self.now_ms).number
            if limit.is_enforced != (balance.ceiling is not None) and not is_over:
                raise Violated(3, f"{key} is stored as {balance}, enforced: {limit.is_enforced}")
        if self.store.engine != "memory":
            missing = [key for key in self._fresh_keys() & set(wanted) if key not in seen]
            if missing:
                raise Violated(8, f"calls were admitted, and these have no balance: {missing}")

    def _fresh_keys(self) -> set[Key]:
        return {key for number in self.fresh for _, key in self.books.accounts[number].keys}


def _check_told(account: Account | None, told: Entry) -> None:
    if account is None:
        raise Violated(7, f"{told} was told, and isn't in the store")
    for row in account.entries:
        if row[2] == told.kind:
            amounts, held = Amounts(*row[4:7]), Amounts(*row[7:10])
            if (amounts, held, bool(row[10]), row[11]) == (told.amounts, told.held, told.estimated, told.overrun_cost):
                return
    raise Violated(7, f"{told} was told, the store has {account.entries}")


def _was_extended(account: Account, asked: Asked) -> bool:
    return any(isinstance(one, Extend) and one.reservation_id == account.number and told is True for one, told in asked)


def _named(account: Account) -> str:
    return f"{reservation_text(ReservationId(account.number))} (run {account.run})"
