"""Rows of a SQLite store as the writing connection last saw them.

They are exact while `PRAGMA data_version` is unchanged, as only this connection wrote since. Another process's commit
makes every row stale, to be read again when it is next needed; a rollback drops everything.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from spendfuse.core.decisions import Refused
from spendfuse.core.labels import Labels
from spendfuse.core.reservations import Entry, ReservationId
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.definitions import StoredLimit
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
from spendfuse.ledger.sqlite_limits import limits_in_force, newest_hash, overrides, positions
from spendfuse.ledger.sqlite_overruns import note_overrun
from spendfuse.ledger.sqlite_subjects import SqliteSubjects
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import Demand, TargetOverrun

ROWS_MAX = 100_000
"""More rows or label sets than this are forgotten, all at once, and read again."""

_SELECT_BALANCE = sql("sqlite", "select_balance")
_INSERT_BALANCE = sql("sqlite", "insert_balance")
_UPDATE_BALANCE = sql("sqlite", "update_balance")
_SELECT_RATE = sql("sqlite", "select_rate")
_UPSERT_RATE = sql("sqlite", "upsert_rate")
_SELECT_LABEL_SET = sql("sqlite", "select_label_set")
_SELECT_LABEL_SET_ID = sql("sqlite", "select_label_set_id")
_INSERT_LABEL_SET = sql("sqlite", "insert_label_set")
_SELECT_REVISION = sql("sqlite", "select_revision")
_SELECT_NEWEST_ID = sql("sqlite", "select_newest_id")


@dataclass(slots=True)
class _Dirty:
    balances: dict[BalanceRow, None] = field(default_factory=dict[BalanceRow, None])
    rates: dict[RateRow, None] = field(default_factory=dict[RateRow, None])


class Books:
    """All that the writer remembers of the store. Every method runs within a write transaction."""

    def __init__(self, connection: sqlite3.Connection, own: AppliedLimits | None) -> None:
        self._connection = connection
        self.own = own
        """The limits of this process, those included that the transaction under way applies; None without any."""
        self._data_version = -1
        self._limits_revision = -1
        self._seen_at = 0
        self._limits = AppliedLimits(())
        self._stored: dict[str, StoredLimit] = {}
        self._overrides: dict[tuple[int, str], int] = {}
        self._rows: dict[tuple[int, str, int], BalanceRow] = {}
        self._rates: dict[tuple[int, str], RateRow] = {}
        self._attributions: dict[frozenset[tuple[str, str]], Attribution] = {}
        self._interned: dict[tuple[int, str], Attribution] = {}
        self._label_set_ids: dict[str, int] = {}
        self._dirty = _Dirty()
        self._subjects = SqliteSubjects(connection)
        self.is_outdated = False
        self.horizon_ms = 0
        self.open: dict[ReservationId, OpenReservation] = {}
        """Open reservations, though not all of them."""
        self.newest_id = 0
        """No reservation of the store, open or ended, has an id above this one."""

    def refresh(self) -> bool:
        """Notice what other processes committed; True when they did."""
        if max(len(self._rows), len(self._rates), len(self._attributions), len(self._interned)) > ROWS_MAX:
            self._forget_rows()
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return False
        self._data_version = version
        self._seen_at += 1
        self.open.clear()
        (self.newest_id,) = self._connection.execute(_SELECT_NEWEST_ID).fetchone()
        (revision,) = self._connection.execute(_SELECT_REVISION, ("limits",)).fetchone()
        if revision != self._limits_revision:
            self.reload_limits()
        return True

    def reload_limits(self) -> None:
        """Read limits and overrides again, after a change of them."""
        (self._limits_revision,) = self._connection.execute(_SELECT_REVISION, ("limits",)).fetchone()
        self.is_outdated = self.own is not None and newest_hash(self._connection) != self.own.hash
        self.horizon_ms = positions(self._connection).horizon_ms
        stored = limits_in_force(self._connection)
        self._stored = {one.limit.identity: one for one in stored}
        self._limits = self.own if self.own and not self.is_outdated else AppliedLimits(tuple(s.limit for s in stored))
        self._overrides = {key: one.amount for key, one in overrides(self._connection).items()}
        self._forget_rows()

    def drop(self, own: AppliedLimits | None) -> None:
        """Forget everything, after a rollback; these are this process's own limits still."""
        self.own = own
        self._data_version = self._limits_revision = -1
        self._dirty = _Dirty()
        self.open.clear()
        self._subjects.forget()
        self._forget_rows()

    def stored_limit(self, name: str) -> StoredLimit | None:
        """The limit in force with this name."""
        return next((one for one in self._stored.values() if one.limit.name == name), None)

    def attribution_of(self, labels: Labels) -> Attribution:
        """The labels of a demand; nothing is stored yet."""
        key = frozenset(labels.items())
        found = self._attributions.get(key)
        if found is None:
            found = self._attributions[key] = attribution_of(labels)
        return found

    def intern(self, attribution: Attribution) -> None:
        """Give the labels of an admitted call their number."""
        if attribution.label_set_id:
            return
        number = self._label_set_ids.get(attribution.stored)
        if number is None:
            row = self._connection.execute(_SELECT_LABEL_SET_ID, (attribution.stored,)).fetchone()
            if row is None:
                row = self._connection.execute(_INSERT_LABEL_SET, (attribution.stored,)).fetchone()
            number = self._label_set_ids[attribution.stored] = int(row[0])
        attribution.label_set_id = number
        self._interned[number, attribution.fleeting] = attribution

    def attribution(self, label_set_id: int, fleeting: str) -> Attribution:
        """The labels of a stored reservation or entry."""
        found = self._interned.get((label_set_id, fleeting))
        if found is None:
            (text,) = self._connection.execute(_SELECT_LABEL_SET, (label_set_id,)).fetchone()
            found = self._interned[label_set_id, fleeting] = stored_attribution(label_set_id, text, fleeting)
        return found

    def lines(self, attribution: Attribution, at_ms: int) -> Lines:
        """What a call made at this instant touches, as it stands now."""
        lines = attribution.lines
        if lines is None or not lines.from_ms <= at_ms < lines.until_ms:
            lines = attribution.lines = self._lines(attribution.labels, at_ms)
        if lines.seen_at != self._seen_at:
            lines.seen_at = self._seen_at
            for row in lines.balances:
                if row.seen_at != self._seen_at:
                    self._read_balance(row)
            for rate in lines.rates:
                if rate.seen_at != self._seen_at:
                    self._read_rate(rate)
        return lines

    def open_subjects(self, lines: Lines, demand: Demand, now_ms: int) -> Refused | None:
        """See `BatchBooks`."""
        key = demand.labels.get("key", "")
        return self._subjects.open(lines.subjects, key=key, per_hour=demand.new_subjects_per_hour, now_ms=now_ms)

    def note_subjects(self, lines: Lines) -> None:
        """See `BatchBooks`."""
        self._subjects.note(lines.subjects)

    def note_overrun(self, target: str, entry: Entry, *, reserved_at_ms: int, now_ms: int) -> TargetOverrun | None:
        """See `BatchBooks`."""
        return note_overrun(self._connection, target, entry, reserved_at_ms=reserved_at_ms, now_ms=now_ms)

    def note_ids(self, written: Sequence[tuple[object, ...]]) -> None:
        """Reservations or entries that were written."""
        self.newest_id = max(self.newest_id, *[cast("int", row[0]) for row in written])

    def touch_balance(self, row: BalanceRow) -> None:
        """A balance to be written."""
        self._dirty.balances[row] = None

    def touch_rate(self, row: RateRow) -> None:
        """A rate to be written."""
        self._dirty.rates[row] = None

    def write(self) -> None:
        """Write each changed balance and rate once."""
        dirty, self._dirty = self._dirty, _Dirty()
        new = [row for row in dirty.balances if not row.is_stored]
        if len(new) < len(dirty.balances):
            rows = [
                (row.settled, row.reserved, row.ceiling, row.overrun, row.limit_id, row.subject, row.window.number)
                for row in dirty.balances
                if row.is_stored
            ]
            self._connection.executemany(_UPDATE_BALANCE, rows)
        for row in new:
            self._insert(row)
        if dirty.rates:
            rates = [(row.limit_id, row.subject, row.tat_ns) for row in dirty.rates]
            self._connection.executemany(_UPSERT_RATE, rates)

    def _lines(self, labels: Labels, at_ms: int) -> Lines:
        matching = self._limits.matching(labels)
        return lines_of(matching, at_ms, stored=self._stored, rows=self._rows, rates=self._rates)

    def _read_balance(self, row: BalanceRow) -> None:
        row.seen_at = self._seen_at
        key = (row.limit_id, row.subject, row.window.number)
        found = self._connection.execute(_SELECT_BALANCE, key).fetchone()
        if found is None:
            row.reset(self._overrides.get((row.limit_id, row.subject), row.limit.amount))
            return
        row.exists = row.is_stored = True
        if row.amount != found[0]:
            row.alerts_from = 0
        row.amount, row.ceiling, row.settled, row.reserved, row.overrun = found

    def _insert(self, row: BalanceRow) -> None:
        window = row.window
        key = (row.limit_id, row.subject, window.number, window.starts_at_ms, window.ends_at_ms)
        state = (row.amount, row.ceiling, row.settled, row.reserved, row.overrun)
        self._connection.execute(_INSERT_BALANCE, (*key, *state))
        row.is_stored = True

    def _read_rate(self, row: RateRow) -> None:
        row.seen_at = self._seen_at
        found = self._connection.execute(_SELECT_RATE, (row.limit_id, row.subject)).fetchone()
        row.tat_ns = 0 if found is None else found[0]
        row.amount = self._overrides.get((row.limit_id, row.subject), row.limit.amount)

    def _forget_rows(self) -> None:
        self._seen_at += 1
        self._rows.clear()
        self._rates.clear()
        self._attributions.clear()
        self._interned.clear()
        self._label_set_ids.clear()
