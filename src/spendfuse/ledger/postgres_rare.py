"""Operations that touch rows which can't be named beforehand: each runs alone with the store.

Within the transaction of the batch they came in, in which `lock_store` was called before anything else.
"""

import json
from typing import assert_never

from spendfuse.core.errors import LedgerError, LimitUnknown
from spendfuse.ledger.applied import END_IS_OVER, WITHOUT_LIMITS, wrong_subject
from spendfuse.ledger.breakers import BreakerOperation
from spendfuse.ledger.breaking import run_breakers
from spendfuse.ledger.operations import (
    AddKey,
    ApplyLimits,
    ClearOverrun,
    OutboxStep,
    Outcome,
    RaiseAlerts,
    Repair,
    RevokeKey,
    SetAmount,
    Upkeep,
)
from spendfuse.ledger.pieces import Piece
from spendfuse.ledger.postgres_alerts import insert_alerts, outbox_step
from spendfuse.ledger.postgres_audit import repair
from spendfuse.ledger.postgres_books import PostgresBooks
from spendfuse.ledger.postgres_breakers import PostgresBreakers
from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.postgres_limits import apply_limits, set_amount
from spendfuse.ledger.postgres_spent import note_spent
from spendfuse.ledger.postgres_upkeep import keep_up
from spendfuse.ledger.spent import NoteSpent
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import KeyRecord, Topic

RareOperation = (
    SetAmount
    | ApplyLimits
    | AddKey
    | RevokeKey
    | ClearOverrun
    | RaiseAlerts
    | OutboxStep
    | Upkeep
    | Repair
    | NoteSpent
    | BreakerOperation
)

_SELECT_TAKEN_KEYS = sql("postgres", "select_taken_keys")
_INSERT_KEY = sql("postgres", "insert_key")
_REVOKE_KEY = sql("postgres", "revoke_key")
_DELETE_OVERRUN = sql("postgres", "delete_overrun")
_GROW_REVISION = sql("postgres", "grow_revision")


async def run_rare(
    connection: PostgresConnection, books: PostgresBooks, operation: RareOperation, *, now_ms: int, is_repeated: bool
) -> Outcome:
    """Run one of them. `is_repeated` when a commit of it was tried before, with unknown success."""
    if isinstance(operation, BreakerOperation):
        return await run_breakers(PostgresBreakers(connection), operation, now_ms, is_repeated=is_repeated)
    match operation:
        case SetAmount():
            return await _set_amount(connection, books, operation, now_ms)
        case ApplyLimits():
            return await _apply(connection, books, operation, now_ms)
        case AddKey():
            return await _add_key(connection, operation.record, now_ms, is_repeated=is_repeated)
        case RevokeKey():
            return await _changed(connection, Topic.KEYS, _REVOKE_KEY, now_ms, operation.name)
        case ClearOverrun():
            return await _changed(connection, Topic.OVERRUNS, _DELETE_OVERRUN, operation.target)
        case RaiseAlerts():
            return await insert_alerts(connection, operation.alerts, now_ms)
        case OutboxStep():
            return await outbox_step(connection, operation, now_ms)
        case Upkeep():
            piece = await keep_up(connection, retention_ms=operation.retention_ms, now_ms=now_ms)
            if piece is Piece.LIMITS_CHANGED:
                await books.reload(connection)
            return piece is not Piece.NOTHING
        case Repair():
            is_repaired = await repair(connection, operation.audit, now_ms)
            await books.reload(connection)
            return is_repaired
        case NoteSpent():
            return await note_spent(connection, operation, now_ms)
        case _:
            assert_never(operation)


async def _apply(
    connection: PostgresConnection, books: PostgresBooks, operation: ApplyLimits, now_ms: int
) -> LedgerError | None:
    if books.own is None:
        return WITHOUT_LIMITS
    await apply_limits(connection, operation.applied, now_ms)
    books.own = operation.applied
    await books.reload(connection)
    return None


async def _set_amount(
    connection: PostgresConnection, books: PostgresBooks, operation: SetAmount, now_ms: int
) -> LedgerError | None:
    await books.reload(connection)
    stored = books.stored_limit(operation.limit_name)
    if stored is None:
        return LimitUnknown(f"no limit in force is named {operation.limit_name!r}")
    if (wrong := wrong_subject(stored.limit, operation.subject)) is not None:
        return wrong
    if operation.until_ms is not None and operation.until_ms <= now_ms:
        return END_IS_OVER
    await set_amount(connection, stored, operation, now_ms)
    return None


async def _add_key(
    connection: PostgresConnection, key: KeyRecord, now_ms: int, *, is_repeated: bool
) -> LedgerError | None:
    taken = await connection.rows(_SELECT_TAKEN_KEYS, key.name, key.digest)
    if is_repeated and taken == [(key.name, key.digest, key.revoked_at_ms)]:
        return None  # It was stored by a commit whose success went unseen.
    if taken:
        return LedgerError(f"a live key named {key.name!r}, or with the same secret, is stored already")
    labels, labels_from = json.dumps(dict(key.labels)), json.dumps(key.labels_from)
    row = (key.name, key.digest, labels, labels_from, key.created_at_ms or now_ms, key.revoked_at_ms)
    await connection.change(_INSERT_KEY, *row)
    await connection.change(_GROW_REVISION, Topic.KEYS.value)
    return None


async def _changed(connection: PostgresConnection, topic: Topic, statement: str, *parameters: object) -> bool:
    if not await connection.rows(statement, *parameters):
        return False
    await connection.change(_GROW_REVISION, topic.value)
    return True
