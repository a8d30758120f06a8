"""What keeps a SQLite store small, its reports fast and its balances right."""

import sqlite3

from spendfuse.ledger.store import Mismatch


def keep_up(connection: sqlite3.Connection, *, retention_ms: int | None, now_ms: int) -> bool:
    """See `Ledger.upkeep`; within the caller's transaction."""
    raise NotImplementedError


def repair(connection: sqlite3.Connection, *, now_ms: int) -> tuple[Mismatch, ...]:
    """See `Ledger.repair`; within the caller's transaction."""
    raise NotImplementedError
