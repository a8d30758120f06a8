"""Which limits are spent, in a PostgreSQL store. Within the caller's transaction."""

from spendfuse.core.thresholds import spent_alert
from spendfuse.ledger.definitions import limit_from_text
from spendfuse.ledger.postgres_alerts import insert_alerts
from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.postgres_limits import limits_in_force, overrides
from spendfuse.ledger.spent import PAST_KEPT_MS, NoteSpent, SpentLine, spent_window
from spendfuse.ledger.statements import sql

_INSERT_SPENT = sql("postgres", "insert_spent")
_DELETE_PAST_SPENT = sql("postgres", "delete_past_spent")
_SELECT_SETTLED = sql("postgres", "select_settled")
_SELECT_SPENT = sql("postgres", "select_spent")


async def note_spent(connection: PostgresConnection, operation: NoteSpent, now_ms: int) -> bool:
    """See `Ledger.note_spent`; alone with the store."""
    stored = {one.limit.name: one for one in await limits_in_force(connection)}
    amounts = await overrides(connection)
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
            is_news |= bool(await connection.rows(_INSERT_SPENT, *row))
            settled = await connection.row(_SELECT_SETTLED, known.limit_id, note.subject, window.number)
            alert = spent_alert(
                known.limit, note.subject, window, amount=note.amount, settled=0 if settled is None else settled[0]
            )
            await insert_alerts(connection, [] if alert is None else [alert], now_ms)
    await connection.change(_DELETE_PAST_SPENT, now_ms - PAST_KEPT_MS)
    return is_news


async def spent_now(connection: PostgresConnection, now_ms: int) -> list[SpentLine]:
    """See `Ledger.spent`."""
    rows = await connection.rows(_SELECT_SPENT, now_ms)
    return [SpentLine(limit_from_text(text), *rest) for text, *rest in rows]
