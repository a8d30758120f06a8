"""Targets of a SQLite store that charged more than a quote of them. Within the caller's write transaction."""

import sqlite3

from spendfuse.core.reservations import Entry
from spendfuse.ledger.endings import raised_overrun
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import TargetOverrun, Topic

_SELECT_OVERRUN = sql("sqlite", "select_overrun")
_UPSERT_OVERRUN = sql("sqlite", "upsert_overrun")
_DELETE_OVERRUN = sql("sqlite", "delete_overrun")
_GROW_REVISION = sql("sqlite", "grow_revision")


def note_overrun(
    connection: sqlite3.Connection, target: str, entry: Entry, *, reserved_at_ms: int, now_ms: int
) -> TargetOverrun | None:
    """Multiply the later quotes of the target of an entry above its quote; what they are multiplied by, where they were
    not before."""
    row = connection.execute(_SELECT_OVERRUN, (target,)).fetchone()
    known = None if row is None else TargetOverrun(*row)
    raised = raised_overrun(target, entry, known, reserved_at_ms=reserved_at_ms, now_ms=now_ms)
    if raised is not None:
        connection.execute(_UPSERT_OVERRUN, (raised.target, raised.percent, raised.since_ms))
        connection.execute(_GROW_REVISION, (Topic.OVERRUNS,))
    return raised if known is None else None


def clear_overrun(connection: sqlite3.Connection, target: str) -> bool:
    """See `Ledger.clear_overrun`."""
    if not connection.execute(_DELETE_OVERRUN, (target,)).fetchall():
        return False
    connection.execute(_GROW_REVISION, (Topic.OVERRUNS,))
    return True
