"""Breakers of a PostgreSQL store. Within the caller's transaction; what writes runs alone with the store."""

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
from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.postgres_spent import spent_now
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import Topic

_SELECT_REVISION = sql("postgres", "select_revision")
_GROW_REVISION = sql("postgres", "grow_revision")
_SELECT_SOME_STATES = sql("postgres", "select_some_breaker_states")
_SELECT_STATES_OF = sql("postgres", "select_breaker_states_of")
_SELECT_STATES = sql("postgres", "select_breaker_states")
_UPSERT_STATE = sql("postgres", "upsert_breaker_state")
_INSERT_CHANGE = sql("postgres", "insert_breaker_change")
_SELECT_CHANGES = sql("postgres", "select_breaker_changes")
_UPSERT_COUNT = sql("postgres", "upsert_breaker_counts")
_DELETE_PAST_COUNTS = sql("postgres", "delete_past_breaker_counts")
_DELETE_COUNTS = sql("postgres", "delete_breaker_counts")
_SUM_COUNTS = sql("postgres", "sum_breaker_counts")


class PostgresBreakers:
    """A `BreakerStore` over a connection."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection

    async def states(self, keys: Sequence[Key]) -> Mapping[Key, State]:
        """See `BreakerStore`."""
        rows = await self._connection.rows(_SELECT_SOME_STATES, [key[0] for key in keys], [key[1] for key in keys])
        return {(row[0], row[1]): state_of(row[2:]) for row in rows}

    async def states_of(self, breaker: str) -> Mapping[Key, State]:
        """See `BreakerStore`."""
        rows = await self._connection.rows(_SELECT_STATES_OF, breaker)
        return {(row[0], row[1]): state_of(row[2:]) for row in rows}

    async def add_counts(self, rows: Sequence[CountRow], now_ms: int) -> None:
        """See `BreakerStore`."""
        if rows:
            columns = [list(column) for column in zip(*map(count_row, rows), strict=True)]
            await self._connection.change(_UPSERT_COUNT, *columns)
        await self._connection.change(_DELETE_PAST_COUNTS, now_ms)

    async def counts(self, windows: Sequence[tuple[str, str, int]]) -> Sequence[Counts]:
        """See `BreakerStore`."""
        columns = [[window[column] for window in windows] for column in range(3)]
        return [Counts(*row) for row in await self._connection.rows(_SUM_COUNTS, *columns)]

    async def clear_counts(self, key: Key) -> None:
        """See `BreakerStore`."""
        await self._connection.change(_DELETE_COUNTS, *key)

    async def spent(self, now_ms: int) -> Sequence[SpentLine]:
        """See `BreakerStore`."""
        return await spent_now(self._connection, now_ms)

    async def write_state(self, change: StateChange, now_ms: int) -> None:
        """See `BreakerStore`."""
        await self._connection.change(_UPSERT_STATE, *state_row(change.line))
        if change.is_logged:
            await self._connection.change(_INSERT_CHANGE, *change_row(change, now_ms))

    async def grow_revision(self) -> None:
        """See `BreakerStore`."""
        await self._connection.change(_GROW_REVISION, Topic.BREAKERS.value)

    async def revision(self) -> int:
        """See `BreakerStore`."""
        return await _revision(self._connection)


async def breaker_states(connection: PostgresConnection, now_ms: int) -> BreakerStates:
    """See `BreakerLedger.breakers`."""
    # Read before the states: a copy may be newer than it says, never older.
    revision = await _revision(connection)
    return BreakerStates(revision, now_ms, tuple(map(line_of, await connection.rows(_SELECT_STATES))))


async def breaker_changes(connection: PostgresConnection, *, after: int, newest: int | None) -> list[BreakerChange]:
    """See `BreakerLedger.breaker_changes`."""
    rows = await connection.rows(_SELECT_CHANGES, after, CHANGES_MAX if newest is None else newest)
    return [change_of(row) for row in reversed(rows)]


async def _revision(connection: PostgresConnection) -> int:
    return await connection.only(_SELECT_REVISION, Topic.BREAKERS.value)
