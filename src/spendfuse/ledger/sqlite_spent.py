"""Which limits are spent, in a SQLite store. Within the caller's transaction."""

import sqlite3

from spendfuse.core.thresholds import spent_alert
from spendfuse.ledger.definitions import limit_from_text
from spendfuse.ledger.spent import PAST_KEPT_MS, NoteSpent, SpentLine, spent_window
from spendfuse.ledger.sqlite_alerts import insert_alerts
from spendfuse.ledger.sqlite_limits import limits_in_force, overrides
from spendfuse.ledger.statements import sql

_INSERT_SPENT = sql("sqlite", "insert_spent")
_DELETE_PAST_SPENT = sql("sqlite", "delete_past_spent")
_SELECT_SETTLED = sql("sqlite", "select_settled")
_SELECT_SPENT = sql("sqlite", "select_spent")


def note_spent(connection: sqlite3.Connection, operation: NoteSpent, now_ms: int) -> bool:
    """See `Ledger.note_spent`."""
    stored = {one.limit.name: one for one in limits_in_force(connection)}
    amounts = overrides(connection)
    is_news = False
    for note in operation.notes:
        known = stored.get(note.limit_name)
        if known is None:
            continue
        override = amounts.get((known.limit_id, note.subject))
        amount = known.limit.amount if override is None else override.amount
        window = spent_window(note, known.limit, amount, now_ms)
        if window is not None:
            row = (known.limit_id, note.subject, window.number, window.ends_at_ms, note.amount, now_ms)
            is_news |= bool(connection.execute(_INSERT_SPENT, row).fetchall())
            settled = connection.execute(_SELECT_SETTLED, (known.limit_id, note.subject, window.number)).fetchone()
            alert = spent_alert(
                known.limit, note.subject, window, amount=note.amount, settled=0 if settled is None else settled[0]
            )
            insert_alerts(connection, [] if alert is None else [alert], now_ms)
    connection.execute(_DELETE_PAST_SPENT, (now_ms - PAST_KEPT_MS,))
    return is_news


def spent_now(connection: sqlite3.Connection, now_ms: int) -> list[SpentLine]:
    """See `Ledger.spent`."""
    rows = connection.execute(_SELECT_SPENT, (now_ms,))
    return [SpentLine(limit_from_text(text), *rest) for text, *rest in rows]
