"""What a process remembers of a PostgreSQL store, and the rows that one batch has locked.

Which rows a call touches is remembered from batch to batch; how they stand never is: a batch asks for all that it may
touch, `PlannedRows`, and gets their state with their locks. Where it then needs a row that it has not locked (the
window turned while it waited) it starts again. After whatever went wrong everything is forgotten.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spendfuse.core.decisions import Refused
from spendfuse.core.labels import Labels, Subject
from spendfuse.core.reservations import Entry, ReservationId
from spendfuse.core.subjects import each_text, hour_of
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.definitions import StoredLimit
from spendfuse.ledger.endings import raised_overrun
from spendfuse.ledger.postgres_connection import PostgresConnection, StartAgain
from spendfuse.ledger.postgres_limits import limits_in_force, newest_hash, overrides, positions
from spendfuse.ledger.rows import (
    Attribution,
    BalanceRow,
    Lines,
    OpenReservation,
    RateRow,
    attribution_of,
    lines_of,
    stored_attribution,
)
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import Demand, TargetOverrun
from spendfuse.ledger.subjects import Subjects

ROWS_MAX = 100_000
"""More rows, label sets or reservations than this are forgotten, all at once, and read again."""
TURN_MS = 1_000
"""So late in a window, the next one is locked too: it may turn while the batch waits."""

_SELECT_REVISION = sql("postgres", "select_revision")


@dataclass(slots=True)
class PlannedRows:
    """What a batch may touch, each once."""

    balances: list[BalanceRow] = field(default_factory=list[BalanceRow])
    rates: list[RateRow] = field(default_factory=list[RateRow])
    reservation_ids: dict[int, None] = field(default_factory=dict[int, None])
    label_sets: dict[str, None] = field(default_factory=dict[str, None])
    keys: dict[str, None] = field(default_factory=dict[str, None])
    subjects: dict[Subject, None] = field(default_factory=dict[Subject, None])
    targets: dict[str, None] = field(default_factory=dict[str, None])


@dataclass(slots=True)
class ChangedRows:
    """What a batch has changed, beside its reservations and entries."""

    balances: dict[BalanceRow, None] = field(default_factory=dict[BalanceRow, None])
    rates: dict[RateRow, None] = field(default_factory=dict[RateRow, None])
    label_sets: list[tuple[int, bytes, str]] = field(default_factory=list[tuple[int, bytes, str]])
    overruns: dict[str, tuple[TargetOverrun, bool]] = field(default_factory=dict[str, tuple[TargetOverrun, bool]])


class PostgresSubjects(Subjects):
    """Looks up only what the batch has asked the store for, and gathers what is to be written."""

    def __init__(self) -> None:
        super().__init__()
        self._stored: set[Subject] = set()
        self._counts: dict[str, tuple[int, bool]] = {}
        self.noted: list[tuple[str, str]] = []
        self.opened: dict[str, tuple[int, bool]] = {}
        """By key: how many it has opened in this hour, and whether that is its first row."""

    def lacks(self, subject: Subject) -> bool:
        """Whether the store must be asked for it."""
        return subject not in self._seen

    def load(self, stored: set[Subject], counts: dict[str, int]) -> None:
        """Take the store's answer for one batch."""
        self._stored = stored
        self._counts = {key: (count, False) for key, count in counts.items()}
        self.noted, self.opened = [], {}

    def _is_stored(self, subject: Subject) -> bool:
        return subject in self._stored

    def _opened(self, key: str, hour_ms: int) -> int:
        return self._counts.get(key, (0, True))[0]

    def _count(self, key: str, hour_ms: int, count: int) -> None:
        opened, is_new = self._counts.get(key, (0, True))
        self.opened[key] = self._counts[key] = (opened + count, is_new)

    def _note(self, subjects: Iterable[Subject]) -> None:
        self.noted += [(each_text(each), text) for each, text in subjects]


class PostgresBooks:
    """`BatchBooks` of the writing connection, one batch at a time."""

    def __init__(self, own: AppliedLimits | None) -> None:
        self.own = own
        """The limits of this process, those included that the transaction under way applies; None without any."""
        self._batch_no = 0
        self._limits = AppliedLimits(())
        self._stored: dict[str, StoredLimit] = {}
        self._overrides: dict[tuple[int, str], int] = {}
        self._rows: dict[tuple[int, str, int], BalanceRow] = {}
        self._rates: dict[tuple[int, str], RateRow] = {}
        self._attributions: dict[frozenset[tuple[str, str]], Attribution] = {}
        self._interned: dict[tuple[int, str], Attribution] = {}
        self._label_set_ids: dict[str, int] = {}
        self._given_ids: dict[str, tuple[int, bool]] = {}
        self._overruns: dict[str, TargetOverrun] = {}
        self.revision = -1
        self.is_outdated = False
        self.horizon_ms = 0
        self.subjects = PostgresSubjects()
        self.known: dict[ReservationId, OpenReservation] = {}
        """Reservations that this process opened, as far as it remembers: whose they are, not whether they are open."""
        self.planned = PlannedRows()
        self.changed = ChangedRows()

    async def reload(self, connection: PostgresConnection) -> None:
        """Read limits and overrides, under the store's lock; forget rows, as limits may have taken theirs along."""
        self.forget()
        self.revision = await connection.only(_SELECT_REVISION, "limits")
        self.is_outdated = self.own is not None and await newest_hash(connection) != self.own.hash
        self.horizon_ms = (await positions(connection)).horizon_ms
        stored = await limits_in_force(connection)
        self._stored = {one.limit.identity: one for one in stored}
        self._limits = (
            self.own if self.own and not self.is_outdated else AppliedLimits(tuple(one.limit for one in stored))
        )
        self._overrides = {key: one.amount for key, one in (await overrides(connection)).items()}

    def drop(self, own: AppliedLimits | None) -> None:
        """Forget what a transaction that was rolled back left; these are this process's own limits still."""
        self.own = own
        self.forget()

    def forget(self) -> None:
        """Forget all but reservations: after anything went wrong, or when there is too much to remember."""
        self.revision = -1
        self._rows.clear()
        self._rates.clear()
        self._attributions.clear()
        self._interned.clear()
        self._label_set_ids.clear()
        self.subjects.forget()

    def trim(self) -> None:
        """Between batches: forget what is too much to remember."""
        if max(len(self._rows), len(self._rates), len(self._attributions), len(self._interned)) > ROWS_MAX:
            self.forget()
        if len(self.known) > ROWS_MAX:
            self.known.clear()

    def plan(self) -> PlannedRows:
        """Begin a batch that has locked nothing yet."""
        self._batch_no += 1
        self.planned, self.changed = PlannedRows(), ChangedRows()
        return self.planned

    def plan_demand(self, demand: Demand, at_ms: int) -> None:
        """Ask for whatever admitting this may touch."""
        attribution = self.attribution_of(demand.labels)
        lines = self.plan_lines(attribution, at_ms)
        if lines.until_ms - at_ms < TURN_MS:
            self.plan_lines(attribution, lines.until_ms)
        if not attribution.label_set_id and attribution.stored not in self._label_set_ids:
            self.planned.label_sets[attribution.stored] = None
        if lines.is_known:
            return
        claimed = [(limit.each, text) for limit, text in lines.subjects if limit.has_claimed_subjects]
        unsure = [subject for subject in claimed if self.subjects.lacks(subject)]
        if unsure:
            self.planned.subjects.update(dict.fromkeys(unsure))
            self.planned.keys[demand.labels.get("key", "")] = None

    def plan_lines(self, attribution: Attribution, at_ms: int) -> Lines:
        """Ask for the balances and rates of a call made at this instant."""
        lines = attribution.lines
        if lines is None or not lines.from_ms <= at_ms < lines.until_ms:
            lines = attribution.lines = self._lines(attribution.labels, at_ms)
        if lines.seen_at != self._batch_no:
            lines.seen_at = self._batch_no
            for row in lines.balances:
                if row.seen_at != self._batch_no:
                    row.seen_at = self._batch_no
                    self.planned.balances.append(row)
            for rate in lines.rates:
                if rate.seen_at != self._batch_no:
                    rate.seen_at = self._batch_no
                    self.planned.rates.append(rate)
        return lines

    def lock_parameters(self) -> list[object]:
        """The rows that were asked for, as `lock_rows` takes them."""
        planned = self.planned
        numbered = [row.balance_id for row in planned.balances if row.balance_id]
        others = [row for row in planned.balances if not row.balance_id]
        return [
            numbered,
            [row.limit_id for row in others],
            [row.subject for row in others],
            [row.window.number for row in others],
            [rate.limit_id for rate in planned.rates],
            [rate.subject for rate in planned.rates],
            list(planned.reservation_ids),
            [_digest(text) for text in planned.label_sets],
            list(planned.keys),
            [each_text(each) for each, _ in planned.subjects],
            [text for _, text in planned.subjects],
            list(planned.targets),
        ]

    def load(self, found: Mapping[str, Any]) -> None:
        """Take how the rows stand now, as `lock_rows` says."""
        planned = self.planned
        others = [row for row in planned.balances if not row.balance_id]
        for place, balance_id in zip(found["found_places"] or (), found["found_ids"] or (), strict=True):
            others[place - 1].balance_id = balance_id
        columns = [found[name] or () for name in _BALANCE_COLUMNS]
        states = {state[0]: state[1:] for state in zip(*columns, strict=True)}
        for row in planned.balances:
            state = states.get(row.balance_id)
            if state is not None:
                if row.amount != state[0]:
                    row.alerts_from = 0
                row.amount, row.ceiling, row.settled, row.reserved, row.overrun = state
                row.exists = row.is_stored = True
            elif row.balance_id:
                raise StartAgain("a balance that was remembered is gone")
            else:
                row.reset(self._overrides.get((row.limit_id, row.subject), row.limit.amount))
        tats_ns: dict[int, int] = dict(zip(found["rate_places"] or (), found["tats_ns"] or (), strict=True))
        for place, rate in enumerate(planned.rates, 1):
            rate.is_stored = place in tats_ns
            rate.tat_ns = tats_ns.get(place, 0)
            rate.amount = self._overrides.get((rate.limit_id, rate.subject), rate.limit.amount)
        given = zip(planned.label_sets, found["label_set_ids"] or (), found["are_label_sets_new"] or (), strict=True)
        self._given_ids = {text: (number, is_new) for text, number, is_new in given}
        subjects = list(planned.subjects)
        self.subjects.load(
            {subjects[place - 1] for place in found["seen_places"] or ()},
            dict(zip(found["opened_keys"] or (), found["opened_counts"] or (), strict=True)),
        )
        columns = [found[name] or () for name in ("overrun_targets", "overrun_percents", "overruns_since_ms")]
        self._overruns = {row[0]: TargetOverrun(*row) for row in zip(*columns, strict=True)}

    def stored_limit(self, name: str) -> StoredLimit | None:
        """The limit in force with this name."""
        return next((one for one in self._stored.values() if one.limit.name == name), None)

    def remember_labels(self, label_set_id: int, fleeting: str, stored: str) -> Attribution:
        """The labels of a reservation or entry that was read."""
        found = self._interned.get((label_set_id, fleeting))
        if found is None:
            found = self._interned[label_set_id, fleeting] = stored_attribution(label_set_id, stored, fleeting)
        return found

    def remembers_labels(self, label_set_id: int, fleeting: str) -> bool:
        """Whether `attribution` knows them."""
        return (label_set_id, fleeting) in self._interned

    def attribution_of(self, labels: Labels) -> Attribution:
        """See `BatchBooks`."""
        key = frozenset(labels.items())
        found = self._attributions.get(key)
        if found is None:
            found = self._attributions[key] = attribution_of(labels)
        return found

    def attribution(self, label_set_id: int, fleeting: str) -> Attribution:
        """See `BatchBooks`."""
        return self._interned[label_set_id, fleeting]

    def intern(self, attribution: Attribution) -> None:
        """See `BatchBooks`."""
        if attribution.label_set_id:
            return
        text = attribution.stored
        number = self._label_set_ids.get(text)
        if number is None:
            number, is_new = self._given_ids[text]
            if is_new:
                self.changed.label_sets.append((number, _digest(text), text))
            self._label_set_ids[text] = number
        attribution.label_set_id = number
        self._interned[number, attribution.fleeting] = attribution

    def lines(self, attribution: Attribution, at_ms: int) -> Lines:
        """See `BatchBooks`."""
        lines = attribution.lines
        if lines is None or not lines.from_ms <= at_ms < lines.until_ms:
            lines = attribution.lines = self._lines(attribution.labels, at_ms)
        if lines.seen_at != self._batch_no:
            if any(row.seen_at != self._batch_no for row in (*lines.balances, *lines.rates)):
                raise StartAgain("a window turned while the batch waited for its rows")
            lines.seen_at = self._batch_no
        return lines

    def open_subjects(self, lines: Lines, demand: Demand, now_ms: int) -> Refused | None:
        """See `BatchBooks`."""
        key = demand.labels.get("key", "")
        return self.subjects.open(lines.subjects, key=key, per_hour=demand.new_subjects_per_hour, now_ms=now_ms)

    def note_subjects(self, lines: Lines) -> None:
        """See `BatchBooks`."""
        self.subjects.note(lines.subjects)

    def note_overrun(self, target: str, entry: Entry, *, reserved_at_ms: int, now_ms: int) -> TargetOverrun | None:
        """See `BatchBooks`."""
        known = self._overruns.get(target)
        raised = raised_overrun(target, entry, known, reserved_at_ms=reserved_at_ms, now_ms=now_ms)
        if raised is not None:
            _, is_new = self.changed.overruns.get(target, (None, known is None))
            self.changed.overruns[target] = (raised, is_new)
            self._overruns[target] = raised
        return raised if known is None else None

    def touch_balance(self, row: BalanceRow) -> None:
        """See `BatchBooks`."""
        self.changed.balances[row] = None

    def touch_rate(self, row: RateRow) -> None:
        """See `BatchBooks`."""
        self.changed.rates[row] = None

    def changed_rows(self, now_ns: int) -> list[list[object]]:
        """What has changed, as the first parameters of `write_rows`."""
        changed, hour_ms = self.changed, hour_of(now_ns // NS_PER_MS)
        return [
            list(changed.label_sets),
            [
                (row.balance_id, row.settled, row.reserved, row.ceiling, row.overrun)
                for row in changed.balances
                if row.is_stored
            ],
            [_new_balance(row) for row in changed.balances if not row.is_stored],
            [(row.limit_id, row.subject, row.tat_ns, not row.is_stored) for row in changed.rates],
            list(self.subjects.noted),
            [(key, hour_ms, count, is_new) for key, (count, is_new) in self.subjects.opened.items()],
        ]

    def changed_overruns(self) -> list[object]:
        """What has changed of the targets, likewise."""
        return [(one.target, one.percent, one.since_ms, is_new) for one, is_new in self.changed.overruns.values()]

    def _lines(self, labels: Labels, at_ms: int) -> Lines:
        matching = self._limits.matching(labels)
        return lines_of(matching, at_ms, stored=self._stored, rows=self._rows, rates=self._rates)


_BALANCE_COLUMNS = ("balance_ids", "amounts", "ceilings", "settled", "reserved", "overruns")


def _new_balance(row: BalanceRow) -> tuple[object, ...]:
    window = row.window
    key = (row.limit_id, row.subject, window.number, window.starts_at_ms, window.ends_at_ms)
    return (*key, row.amount, row.ceiling, row.settled, row.reserved, row.overrun)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
