"""Breakers of a SQLite store. Within the caller's transaction; nothing here waits, see `breaking.run_now`."""

import sqlite3
from collections.abc import Mapping, Sequence

from spendfuse.core.breakers import Counts, State
from spendfuse.ledger.breaker_rows import (
    CHANGES_MAX,
    change_of,
    change_row,
    count_row,
    line_of,
    state_of,
    state_row,
)
from spendfuse.ledger.breakers import BreakerChange, BreakerStates, CountRow, Key, StateChange
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.sqlite_spent import spent_now
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import Topic

_SELECT_REVISION = sql("sqlite", "select_revision")
_GROW_REVISION = sql("sqlite", "grow_revision")
_SELECT_STATE = sql("sqlite", "select_breaker_state")
_SELECT_STATES_OF = sql("sqlite", "select_breaker_states_of")
_SELECT_STATES = sql("sqlite", "select_breaker_states")
_UPSERT_STATE = sql("sqlite", "upsert_breaker_state")
_INSERT_CHANGE = sql("sqlite", "insert_breaker_change")
_SELECT_CHANGES = sql("sqlite", "select_breaker_changes")
_UPSERT_COUNT = sql("sqlite", "upsert_breaker_count")
_DELETE_PAST_COUNTS = sql("sqlite", "delete_past_breaker_counts")
_DELETE_COUNTS = sql("sqlite", "delete_breaker_counts")
_SUM_COUNTS = sql("sqlite", "sum_breaker_counts")


class SqliteBreakers:
    """A `BreakerStore` over a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def states(self, keys: Sequence[Key]) -> Mapping[Key, State]:
        """See `BreakerStore`."""
        found = {key: self._connection.execute(_SELECT_STATE, key).fetchone() for key in keys}
        return {key: state_of(row) for key, row in found.items() if row is not None}

    async def states_of(self, breaker: str) -> Mapping[Key, State]:
        """See `BreakerStore`."""
        rows = self._connection.execute(_SELECT_STATES_OF, (breaker,))
        return {(row[0], row[1]): state_of(row[2:]) for row in rows}

    async def add_counts(self, rows: Sequence[CountRow], now_ms: int) -> None:
        """See `BreakerStore`."""
        self._connection.executemany(_UPSERT_COUNT, map(count_row, rows))
        self._connection.execute(_DELETE_PAST_COUNTS, (now_ms,))

    async def counts(self, windows: Sequence[tuple[str, str, int]]) -> Sequence[Counts]:
        """See `BreakerStore`."""
        return [Counts(*self._connection.execute(_SUM_COUNTS, window).fetchone()) for window in windows]

    async def clear_counts(self, key: Key) -> None:
        """See `BreakerStore`."""
        self._connection.execute(_DELETE_COUNTS, key)

    async def spent(self, now_ms: int) -> Sequence[SpentLine]:
        """See `BreakerStore`."""
        return spent_now(self._connection, now_ms)

    async def write_state(self, change: StateChange, now_ms: int) -> None:
        """See `BreakerStore`."""
        self._connection.execute(_UPSERT_STATE, state_row(change.line))
        if change.is_logged:
            self._connection.execute(_INSERT_CHANGE, change_row(change, now_ms))

    async def grow_revision(self) -> None:
        """See `BreakerStore`."""
        self._connection.execute(_GROW_REVISION, (Topic.BREAKERS,))

    async def revision(self) -> int:
        """See `BreakerStore`."""
        return _revision(self._connection)


def breaker_states(connection: sqlite3.Connection, now_ms: int) -> BreakerStates:
    """See `BreakerLedger.breakers`."""
    # Read before the states: a copy may be newer than it says, never older.
    revision = _revision(connection)
    return BreakerStates(revision, now_ms, tuple(map(line_of, connection.execute(_SELECT_STATES))))


def breaker_changes(connection: sqlite3.Connection, *, after: int, newest: int | None) -> list[BreakerChange]:
    """See `BreakerLedger.breaker_changes`."""
    rows = connection.execute(_SELECT_CHANGES, (after, CHANGES_MAX if newest is None else newest)).fetchall()
    return [change_of(row) for row in reversed(rows)]


def _revision(connection: sqlite3.Connection) -> int:
    return connection.execute(_SELECT_REVISION, (Topic.BREAKERS,)).fetchone()[0]
