"""What an onlooker of a store knows of it: every reservation from its first to its last line, and his own sums of them.

None of the engines' code adds up here: what a balance should be follows from the rows that were seen, one by one.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from world_store import EntryRow, Key, OpenRow

from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import EntryKind
from spendfuse.ledger.applied import window_of


class Violated(Exception):
    """An invariant is broken; `number` is the one of STYLE, 0 for what no number stands for."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"invariant {number}: {what}")
        self.number = number
        self.what = what


@dataclass(slots=True)
class Sum:
    """What a balance should be, and the most that may be committed on it."""

    settled: int = 0
    reserved: int = 0
    excess: int = 0
    """What entries charged above what was reserved for them."""
    highest: int = 0
    """The highest amount that was in force."""
    ended_as_shadow: bool | None = None
    """Once its window is over and other limits rule: whether nothing held it back at its end."""

    @property
    def committed(self) -> int:
        return self.settled + self.reserved


@dataclass(slots=True)
class Account:
    """One reservation as seen."""

    number: int
    labels: Labels
    reserved_at_ms: int
    keys: tuple[tuple[Unit, Key], ...]
    row: OpenRow
    first_held: tuple[int, ...]
    is_recorded: bool = False
    """It never was a reservation: its call was served while the store was away."""
    entries: list[EntryRow] = field(default_factory=list[EntryRow])

    @property
    def is_open(self) -> bool:
        return not self.entries

    @property
    def cap(self) -> int:
        return self.row[4]

    @property
    def held_cost(self) -> int:
        return self.row[5]

    @property
    def charged(self) -> int:
        """By all its entries."""
        return sum(one[4] for one in self.entries)

    @property
    def kind(self) -> EntryKind | None:
        """How it ended."""
        return EntryKind(self.entries[0][2]) if self.entries else None

    @property
    def is_estimated(self) -> bool:
        return bool(self.entries[-1][10])

    @property
    def run(self) -> str:
        """By which a call is told from all others."""
        return self.labels.get("run", "")


class Books:
    """Accounts and sums. `every` are all limits that may come into force in this world."""

    def __init__(self, every: Iterable[Limit]) -> None:
        self.every = {limit.identity: limit for limit in every if not limit.is_rate}
        self.accounts: dict[int, Account] = {}
        self.open: dict[int, Account] = {}
        self.by_run: dict[str, Account] = {}
        self.sums: dict[Key, Sum] = defaultdict(Sum)
        self.limits: dict[str, Limit] = {}
        self.amounts: dict[tuple[str, str], int] = {}
        """Set for a subject, by identity and subject."""
        self._until_ms: dict[tuple[str, str], int] = {}
        """When they end."""
        self._first_windows: dict[str, int] = {}

    def amount_of(self, identity: str, subject: str) -> int:
        """In force now."""
        return self.amounts.get((identity, subject), self.limits[identity].amount)

    def keys_of(self, labels: Labels, at_ms: int) -> Iterator[tuple[Unit, Key]]:
        """Every balance that a call could count in, whether or not its limit is in force."""
        for identity, limit in self.every.items():
            if limit.covers(labels):
                yield limit.unit, (identity, limit.subject_of(labels), window_of(limit, at_ms).number)

    def opened(self, row: OpenRow, labels: Labels) -> Account:
        """A reservation is seen for the first time."""
        keys = tuple(self.keys_of(labels, row[2]))
        account = self.accounts[row[0]] = self.open[row[0]] = Account(row[0], labels, row[2], keys, row, row[5:8])
        if account.run:
            self.by_run[account.run] = account
        self._hold(account, row, 1)
        return account

    def recorded(self, number: int, labels: Labels, at_ms: int, held: Amounts) -> Account:
        """A call is written down that was served without a reservation."""
        row = (number, 0, at_ms, at_ms, 0, held.cost, held.input_tokens, held.output_tokens, 0, "")
        keys = tuple(self.keys_of(labels, at_ms))
        account = Account(number, labels, at_ms, keys, row, row[5:8], is_recorded=True)
        self.accounts[number] = account
        return account

    def changed(self, account: Account, row: OpenRow) -> None:
        """An open reservation is another than it was."""
        self._hold(account, account.row, -1)
        account.row = row
        self._hold(account, row, 1)

    def ended(self, account: Account, entry: EntryRow) -> None:
        """A reservation has one more entry."""
        if not account.entries and not account.is_recorded:
            self._hold(account, account.row, -1)
            self.open.pop(account.number, None)
        account.entries.append(entry)
        held = Amounts(entry[7], entry[8], entry[9])
        is_late = entry[2] == EntryKind.LATE
        for unit, key in account.keys:
            settled = _settled_by(unit, entry)
            total = self.sums[key]
            total.settled += settled
            if account.is_recorded:
                total.excess += max(0, settled)
            elif unit.is_consumable:
                total.excess += max(0, settled - (0 if is_late else held.of(unit)))

    def counts(self, key: Key) -> bool:
        """Whether there can be such a balance: its limit is in force, and was before the window was over."""
        return key[0] in self.limits and key[2] >= self._first_windows[key[0]]

    def applied(self, limits: Iterable[Limit], now_ms: int) -> None:
        """Other limits rule, or the same ones again."""
        before, self.limits = self.limits, {one.identity: one for one in limits if not one.is_rate}
        new = [identity for identity in self.limits if identity not in before]
        for identity in new:
            self._first_windows[identity] = window_of(self.limits[identity], now_ms).number
        for key, total in self.sums.items():
            identity = key[0]
            if identity not in self.limits:
                continue
            was = before.get(identity)
            is_over = key[2] < window_of(self.limits[identity], now_ms).number
            if is_over and was is not None and total.ended_as_shadow is None:
                total.ended_as_shadow = not was.is_enforced
            if was is None or not was.is_enforced:
                # What was spent while nothing held it back was committed then.
                total.highest, total.excess = total.committed, 0
            else:
                total.highest = max(total.highest, self.amounts.get(key[:2], was.amount))

    def end_amounts(self, now_ms: int) -> None:
        """A keeper has run: amounts whose end has come are the config's again."""
        for key in [key for key, until_ms in self._until_ms.items() if until_ms <= now_ms]:
            if key[0] in self.limits:
                self.set_amount(*key, None)
            else:
                del self.amounts[key], self._until_ms[key]

    def set_amount(self, identity: str, subject: str, amount: int | None, until_ms: int | None = None) -> None:
        """The amount of a subject was set, or with None is the config's again."""
        self._until_ms.pop((identity, subject), None)
        if until_ms is not None and amount is not None:
            self._until_ms[identity, subject] = until_ms
        before = self.amount_of(identity, subject)
        for key, total in self.sums.items():
            if key[:2] == (identity, subject):
                total.highest = max(total.highest, before)
        if amount is None:
            self.amounts.pop((identity, subject), None)
        else:
            self.amounts[identity, subject] = amount

    def _hold(self, account: Account, row: OpenRow, sign: int) -> None:
        held = Amounts(row[5], row[6], row[7])  # type: ignore[arg-type]
        for unit, key in account.keys:
            self.sums[key].reserved += sign * held.of(unit)


def _settled_by(unit: Unit, entry: EntryRow) -> int:
    match unit:
        case Unit.USD:
            return entry[4]
        case Unit.TOKENS:
            return entry[5] + entry[6]
        case Unit.INPUT_TOKENS:
            return entry[5]
        case Unit.OUTPUT_TOKENS:
            return entry[6]
        case Unit.REQUESTS:
            return int(not entry[1])
        case Unit.CONCURRENT:
            return 0
