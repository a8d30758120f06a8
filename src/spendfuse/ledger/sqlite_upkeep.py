"""What keeps a SQLite store small and its reports fast: pieces of upkeep, each within the caller's transaction."""

import sqlite3

from spendfuse.ledger.pieces import PIECE_ENTRIES, Piece, carried, due_ms, horizon_ms, open_windows
from spendfuse.ledger.sqlite_limits import limits_in_force, positions
from spendfuse.ledger.statements import sql

_SELECT_PIECE_END = sql("sqlite", "select_piece_end")
_ROLL_UP = sql("sqlite", "roll_up")
_SET_ROLLED_UP = sql("sqlite", "set_rolled_up")
_SET_HORIZON = sql("sqlite", "set_horizon")
_GROW_REVISION = sql("sqlite", "grow_revision")
_SELECT_OLDEST_ENTRY = sql("sqlite", "select_oldest_entry")
_FOLD_DELETED = sql("sqlite", "fold_deleted")
_CARRY = sql("sqlite", "carry")
_DELETE_ENTRIES = sql("sqlite", "delete_entries")
_DELETE_PAST_BALANCES = sql("sqlite", "delete_past_balances")


def keep_up(connection: sqlite3.Connection, *, retention_ms: int | None, now_ms: int) -> Piece:
    """See `Ledger.upkeep`; within the caller's transaction."""
    known, due = positions(connection), due_ms(now_ms)
    if known.rolled_up_until_ms < due:
        _roll_up(connection, known.rolled_up_until_ms, due)
        return Piece.ROLLED_UP
    horizon = horizon_ms(limits_in_force(connection), known, retention_ms=retention_ms, now_ms=now_ms)
    if horizon > known.horizon_ms:
        connection.execute(_SET_HORIZON, (horizon,))
        connection.execute(_GROW_REVISION, ("limits",))
        return Piece.LIMITS_CHANGED
    if _delete_entries(connection, horizon, now_ms):
        return Piece.DELETED
    deleted = connection.execute(_DELETE_PAST_BALANCES, (horizon, now_ms, PIECE_ENTRIES)).rowcount
    return Piece.LIMITS_CHANGED if deleted else Piece.NOTHING


def _roll_up(connection: sqlite3.Connection, from_ms: int, due: int) -> None:
    """Add a piece of the entries to their days."""
    until_ms = _piece_end(connection, from_ms, due)
    connection.execute(_ROLL_UP, {"from_ms": from_ms, "until_ms": until_ms})
    connection.execute(_SET_ROLLED_UP, (until_ms,))


def _delete_entries(connection: sqlite3.Connection, horizon: int, now_ms: int) -> bool:
    """Delete the oldest piece of the entries before the horizon; False when there are none."""
    oldest = connection.execute(_SELECT_OLDEST_ENTRY, (horizon,)).fetchone()
    if oldest is None:
        return False
    until_ms = _piece_end(connection, oldest[0], horizon)
    for stored, window in open_windows(limits_in_force(connection), now_ms):
        if window.starts_at_ms < until_ms:
            several = connection.execute(_FOLD_DELETED, (window.starts_at_ms, until_ms)).fetchall()
            connection.executemany(_CARRY, carried(stored, window, [(row[:-1], row[-1]) for row in several]))
    connection.execute(_DELETE_ENTRIES, (until_ms,))
    return True


def _piece_end(connection: sqlite3.Connection, from_ms: int, until_ms: int) -> int:
    row = connection.execute(_SELECT_PIECE_END, (from_ms, until_ms, PIECE_ENTRIES)).fetchone()
    # However many calls were made in one millisecond, they are one piece.
    return until_ms if row is None else max(row[0], from_ms + 1)
