"""Rows of a store as an engine that runs batches remembers them: plain state, whatever the database."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spendfuse.core.decisions import Balance, RateState
from spendfuse.core.labels import FLEETING_LABELS, Labels
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Entry, ReservationId
from spendfuse.core.windows import Window
from spendfuse.ledger.applied import window_of
from spendfuse.ledger.definitions import StoredLimit


@dataclass(slots=True, eq=False)
class BalanceRow:
    """One balance. `exists` is False until a reservation is first held on it, `is_stored` until that is written.

    `balance_id` is its number in stores that number balances.
    """

    limit_id: int
    limit: Limit
    unit: Unit
    subject: str
    window: Window
    amount: int = 0
    ceiling: int | None = None
    settled: int = 0
    reserved: int = 0
    overrun: int = 0
    exists: bool = False
    is_stored: bool = False
    seen_at: int = -1
    balance_id: int = 0
    alerts_from: int = 0
    """Once so much is settled, thresholds may have been reached that this process wrote no alert for yet."""

    def view(self) -> Balance:
        """What the decision sees."""
        return Balance(self.limit, self.subject, self.amount, self.settled, self.reserved, self.window.ends_at_ms)

    def reset(self, amount: int) -> None:
        """Become a balance that nobody has opened."""
        self.exists = self.is_stored = False
        self.amount = amount
        self.ceiling = amount if self.limit.is_enforced else None
        self.settled = self.reserved = self.overrun = self.alerts_from = 0

    def end(self, *, settled: int, reserved: int) -> None:
        """Move what a reservation's end moves; money spent beyond the ceiling raises it, as overrun."""
        self.settled += settled
        self.reserved += reserved
        committed = self.settled + self.reserved
        if self.ceiling is not None and committed > self.ceiling:
            self.ceiling = committed
            self.overrun += max(0, settled + reserved)


@dataclass(slots=True, eq=False)
class RateRow:
    """One smoothly refilling rate."""

    limit_id: int
    limit: Limit
    subject: str
    amount: int = 0
    tat_ns: int = 0
    seen_at: int = -1
    is_stored: bool = False

    def view(self) -> RateState:
        """What the decision sees."""
        return RateState(self.limit, self.subject, self.amount, self.tat_ns)


@dataclass(slots=True, eq=False)
class Lines:
    """The balances and rates that calls with equal labels touch, from one instant until another.

    `is_known` once none of their subjects can be new any more.
    """

    balances: list[BalanceRow]
    rates: list[RateRow]
    from_ms: int
    until_ms: int
    seen_at: int = -1
    is_known: bool = False

    @property
    def subjects(self) -> list[tuple[Limit, str]]:
        """Limits and the subjects that they count the calls under."""
        return [(row.limit, row.subject) for row in self.balances] + [(row.limit, row.subject) for row in self.rates]


@dataclass(slots=True, eq=False)
class Attribution:
    """The labels of a call, in the parts in which they are stored, and the lines they lead to now."""

    labels: Labels
    stored: str
    fleeting: str
    label_set_id: int = 0
    lines: Lines | None = None


@dataclass(slots=True)
class OpenReservation:
    """An open reservation as stored."""

    reservation_id: ReservationId
    reserved_at_ms: int
    deadline_ms: int
    cap: int
    held: Amounts
    label_set_id: int
    fleeting: str


@dataclass(slots=True)
class EndedReservation:
    """A reservation that has ended, with what a late entry needs to know of it."""

    closing: Entry
    reserved_at_ms: int
    label_set_id: int
    fleeting: str
    late: Entry | None = None


def lines_of(
    matching: Iterable[tuple[Limit, str]],
    at_ms: int,
    *,
    stored: Mapping[str, StoredLimit],
    rows: dict[tuple[int, str, int], BalanceRow],
    rates: dict[tuple[int, str], RateRow],
) -> Lines:
    """The balances at an instant and the rates of some limits and their subjects; rows not yet remembered are added.

    `stored` is by a limit's identity, `rows` by limit, subject and window.
    """
    lines = Lines([], [], 0, 1 << 62)
    for limit, subject in matching:
        limit_id = stored[limit.identity].limit_id
        if limit.is_rate:
            rate = rates.get((limit_id, subject))
            if rate is None:
                rate = rates[limit_id, subject] = RateRow(limit_id, limit, subject)
            lines.rates.append(rate)
            continue
        window = window_of(limit, at_ms)
        row = rows.get((limit_id, subject, window.number))
        if row is None:
            row = rows[limit_id, subject, window.number] = BalanceRow(limit_id, limit, limit.unit, subject, window)
        lines.balances.append(row)
        lines.from_ms = max(lines.from_ms, window.starts_at_ms)
        if window.ends_at_ms is not None:
            lines.until_ms = min(lines.until_ms, window.ends_at_ms)
    return lines


def attribution_of(labels: Labels) -> Attribution:
    """The labels of a demand, not stored yet."""
    stored = {name: value for name, value in labels.items() if name not in FLEETING_LABELS}
    if len(stored) == len(labels):
        return Attribution(labels, _text(stored), "")
    return Attribution(labels, _text(stored), _text({n: v for n, v in labels.items() if n in FLEETING_LABELS}))


def stored_attribution(label_set_id: int, stored: str, fleeting: str) -> Attribution:
    """The labels of a stored reservation or entry."""
    labels: dict[str, str] = json.loads(stored)
    if fleeting:
        labels.update(json.loads(fleeting))
    return Attribution(labels, stored, fleeting, label_set_id)


def _text(labels: Labels) -> str:
    return json.dumps(labels, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
