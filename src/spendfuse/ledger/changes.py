"""What a batch asks of a store, and what it leaves to be written, whatever the database."""

from dataclasses import dataclass, field
from typing import Protocol

from spendfuse.core.alerts import Alert
from spendfuse.core.decisions import Refused
from spendfuse.core.labels import Labels
from spendfuse.core.reservations import Entry
from spendfuse.ledger.definitions import StoredLimit
from spendfuse.ledger.rows import Attribution, BalanceRow, Lines, RateRow
from spendfuse.ledger.store import Demand, TargetOverrun


@dataclass(slots=True)
class Changes:
    """Rows to be written, in the order of the columns of their tables."""

    opened: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    """Reservations: id, owner, reserved at, deadline, cap, cost, input, output tokens, label set, fleeting labels."""
    extended: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    """Reservations: cap, cost, input and output tokens, deadline, id."""
    ended: list[tuple[int]] = field(default_factory=list[tuple[int]])
    """Ids of reservations that are open no more."""
    entries: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    spend: dict[tuple[int, int], list[int]] = field(default_factory=dict[tuple[int, int], list[int]])
    """What to add to the rollup, by bucket and label set."""
    alerts: list[Alert] = field(default_factory=list[Alert])
    """Of those that are there already, none is written again."""


class BatchBooks(Protocol):
    """What a batch needs to know of the store, all of it as it stands under the lock."""

    is_outdated: bool
    horizon_ms: int
    """Of calls made before this instant no entry is left."""

    def attribution_of(self, labels: Labels) -> Attribution:
        """The labels of a demand; nothing is stored yet."""
        ...

    def attribution(self, label_set_id: int, fleeting: str) -> Attribution:
        """The labels of a stored reservation or entry."""
        ...

    def intern(self, attribution: Attribution) -> None:
        """Give the labels of an admitted call their number."""
        ...

    def lines(self, attribution: Attribution, at_ms: int) -> Lines:
        """What a call made at this instant touches, as it stands now."""
        ...

    def open_subjects(self, lines: Lines, demand: Demand, now_ms: int) -> Refused | None:
        """Count the new subjects that a call is about to open; or say why its key can't, and change nothing."""
        ...

    def note_subjects(self, lines: Lines) -> None:
        """The subjects of a call that was served are not new any more, whoever may have opened them."""
        ...

    def stored_limit(self, name: str) -> StoredLimit | None:
        """The limit in force with this name."""
        ...

    def note_overrun(self, target: str, entry: Entry, *, reserved_at_ms: int, now_ms: int) -> TargetOverrun | None:
        """Multiply the later quotes of the target of an entry above its quote; by what, where they were not before."""
        ...

    def touch_balance(self, row: BalanceRow) -> None:
        """A balance to be written."""
        ...

    def touch_rate(self, row: RateRow) -> None:
        """A rate to be written."""
        ...
