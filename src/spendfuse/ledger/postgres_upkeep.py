"""What keeps a PostgreSQL store small and its reports fast: pieces of upkeep, each within a transaction of the caller's
that is alone with the store."""

from spendfuse.ledger.pieces import PIECE_ENTRIES, Piece, carried, due_ms, horizon_ms, open_windows
from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.postgres_limits import limits_in_force, positions
from spendfuse.ledger.statements import sql

_SELECT_PIECE_END = sql("postgres", "select_piece_end")
_ROLL_UP = sql("postgres", "roll_up")
_SET_ROLLED_UP = sql("postgres", "set_rolled_up")
_SET_HORIZON = sql("postgres", "set_horizon")
_GROW_REVISION = sql("postgres", "grow_revision")
_SELECT_OLDEST_ENTRY = sql("postgres", "select_oldest_entry")
_FOLD_DELETED = sql("postgres", "fold_deleted")
_CARRY = sql("postgres", "carry")
_DELETE_ENTRIES = sql("postgres", "delete_entries")
_DELETE_PAST_BALANCES = sql("postgres", "delete_past_balances")


async def keep_up(connection: PostgresConnection, *, retention_ms: int | None, now_ms: int) -> Piece:
    """See `Ledger.upkeep`."""
    known, due = await positions(connection), due_ms(now_ms)
    if known.rolled_up_until_ms < due:
        await _roll_up(connection, known.rolled_up_until_ms, due)
        return Piece.ROLLED_UP
    horizon = horizon_ms(await limits_in_force(connection), known, retention_ms=retention_ms, now_ms=now_ms)
    if horizon > known.horizon_ms:
        await connection.change(_SET_HORIZON, horizon)
        await connection.change(_GROW_REVISION, "limits")
        return Piece.LIMITS_CHANGED
    if await _delete_entries(connection, horizon, now_ms):
        return Piece.DELETED
    deleted = await connection.change(_DELETE_PAST_BALANCES, horizon, now_ms, PIECE_ENTRIES)
    return Piece.LIMITS_CHANGED if deleted else Piece.NOTHING


async def _roll_up(connection: PostgresConnection, from_ms: int, due: int) -> None:
    """Add a piece of the entries to their days."""
    until_ms = await _piece_end(connection, from_ms, due)
    await connection.change(_ROLL_UP, from_ms, until_ms)
    await connection.change(_SET_ROLLED_UP, until_ms)


async def _delete_entries(connection: PostgresConnection, horizon: int, now_ms: int) -> bool:
    """Delete the oldest piece of the entries before the horizon; False when there are none."""
    oldest = await connection.row(_SELECT_OLDEST_ENTRY, horizon)
    if oldest is None:
        return False
    until_ms = await _piece_end(connection, oldest[0], horizon)
    for stored, window in open_windows(await limits_in_force(connection), now_ms):
        if window.starts_at_ms < until_ms:
            several = await connection.rows(_FOLD_DELETED, window.starts_at_ms, until_ms)
            moved = list(carried(stored, window, [(row[:-1], row[-1]) for row in several]))
            await connection.change(_CARRY, *[[one[column] for one in moved] for column in range(4)])
    await connection.change(_DELETE_ENTRIES, until_ms)
    return True


async def _piece_end(connection: PostgresConnection, from_ms: int, until_ms: int) -> int:
    row = await connection.row(_SELECT_PIECE_END, from_ms, until_ms, PIECE_ENTRIES)
    # However many calls were made in one millisecond, they are one piece.
    return until_ms if row is None else max(row[0], from_ms + 1)
