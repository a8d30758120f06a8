"""One batch of operations within one write transaction: read once, decide in Python, write once."""

import json
import sqlite3
from collections.abc import Sequence

from spendfuse.core.reservations import Entry, ReservationId
from spendfuse.ledger.batch import Batch
from spendfuse.ledger.sqlite_alerts import insert_alerts
from spendfuse.ledger.sqlite_books import Books
from spendfuse.ledger.statements import sql

_SELECT_RESERVATIONS = sql("sqlite", "select_reservations")
_SELECT_DUE_RESERVATIONS = sql("sqlite", "select_due_reservations")
_SELECT_OWNERLESS_RESERVATIONS = sql("sqlite", "select_ownerless_reservations")
_SELECT_ENTRIES = sql("sqlite", "select_entries")
_INSERT_RESERVATION = sql("sqlite", "insert_reservation")
_UPDATE_RESERVATION = sql("sqlite", "update_reservation")
_DELETE_RESERVATION = sql("sqlite", "delete_reservation")
_INSERT_ENTRY = sql("sqlite", "insert_entry")
_UPSERT_SPEND = sql("sqlite", "upsert_spend")


class SqliteBatch(Batch):
    """Reads and writes over the writing connection."""

    def __init__(self, connection: sqlite3.Connection, books: Books, *, owner_id: int, now_ns: int) -> None:
        super().__init__(books, books.open, owner_id=owner_id, now_ns=now_ns)
        self._connection = connection
        self._rows = books

    def read(self, ids: Sequence[ReservationId]) -> None:
        """Read the reservations with these ids, open or ended, unless they are known or can't exist."""
        newest_id = self._rows.newest_id
        ids = [one for one in ids if one <= newest_id and one not in self._open]
        if not ids:
            return
        for row in self._connection.execute(_SELECT_RESERVATIONS, (json.dumps(ids),)):
            self._remember(row)
        others = [one for one in ids if one not in self._open]
        if others:
            for row in self._connection.execute(_SELECT_ENTRIES, (json.dumps(others),)):
                self._remember_entry(row)

    def expire_due(self, *, has_ownerless: bool) -> tuple[Entry, ...]:
        """Charge at its quote whatever is past its deadline, or has no owner any more where there may be any."""
        self.write()
        rows = self._connection.execute(_SELECT_DUE_RESERVATIONS, {"now_ms": self._now_ms}).fetchall()
        if has_ownerless:
            rows += self._connection.execute(_SELECT_OWNERLESS_RESERVATIONS).fetchall()
        due = {row[0]: self._remember(row) for row in rows}
        return self.expire([one for _, one in sorted(due.items())])

    def write(self) -> None:
        """Write what has changed since the last call."""
        changes = self._take_changes()
        connection = self._connection
        if changes.opened:
            connection.executemany(_INSERT_RESERVATION, changes.opened)
            self._rows.note_ids(changes.opened)
        if changes.extended:
            connection.executemany(_UPDATE_RESERVATION, changes.extended)
        if changes.ended:
            connection.executemany(_DELETE_RESERVATION, changes.ended)
        if changes.entries:
            connection.executemany(_INSERT_ENTRY, changes.entries)
            # A recorded call has an entry without ever having been a reservation.
            self._rows.note_ids(changes.entries)
        if changes.spend:
            connection.executemany(_UPSERT_SPEND, [(*key, *sums) for key, sums in changes.spend.items()])
        if changes.alerts:
            insert_alerts(connection, changes.alerts, self._now_ms)
        self._rows.write()
