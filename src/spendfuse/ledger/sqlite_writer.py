"""The one connection of a process that writes to a SQLite store. Everything here runs on the writer's thread."""

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from spendfuse.clock import Clock
from spendfuse.core.errors import LedgerClosed, LedgerError, LimitUnknown
from spendfuse.core.reservations import Entry
from spendfuse.core.subjects import hour_of
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.applied import END_IS_OVER, WITHOUT_LIMITS, AppliedLimits, wrong_subject
from spendfuse.ledger.breakers import BreakerOperation
from spendfuse.ledger.breaking import run_breakers, run_now
from spendfuse.ledger.operations import (
    AddKey,
    ApplyLimits,
    CallOperation,
    ClearOverrun,
    CountRefusals,
    ExpireDue,
    Extend,
    Operation,
    OutboxStep,
    Outcome,
    RaiseAlerts,
    Record,
    Repair,
    Reserve,
    RevokeKey,
    SetAmount,
    Settle,
    Upkeep,
    Void,
)
from spendfuse.ledger.pieces import Piece
from spendfuse.ledger.spent import NoteSpent
from spendfuse.ledger.sqlite_alerts import insert_alerts, outbox_step
from spendfuse.ledger.sqlite_audit import repair
from spendfuse.ledger.sqlite_batch import SqliteBatch
from spendfuse.ledger.sqlite_books import Books
from spendfuse.ledger.sqlite_breakers import SqliteBreakers
from spendfuse.ledger.sqlite_file import (
    FileLock,
    OwnerFiles,
    connect_writer,
    lock_path,
    migrate,
    store_errors,
    transaction,
)
from spendfuse.ledger.sqlite_limits import apply_limits, end_amounts, set_amount
from spendfuse.ledger.sqlite_overruns import clear_overrun
from spendfuse.ledger.sqlite_spent import note_spent
from spendfuse.ledger.sqlite_upkeep import keep_up
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import StaleReservation, Topic

LEASE_MS = 30_000
LEASE_RENEWAL_MS = 5_000
PURGE_INTERVAL_MS = 60_000
_OWNERS_APART = 1_024
"""Call ids carry their owner modulo this: no two that live at once may be equal in it."""

_INSERT_OWNER = sql("sqlite", "insert_owner")
_SELECT_OWNERS = sql("sqlite", "select_owners")
_RENEW_LEASE = sql("sqlite", "renew_lease")
_DELETE_OWNER = sql("sqlite", "delete_owner")
_DELETE_IDLE_RATES = sql("sqlite", "delete_idle_rates")
_DELETE_OPENED_SUBJECTS = sql("sqlite", "delete_opened_subjects")
_UPSERT_REFUSAL = sql("sqlite", "upsert_refusal")
_GROW_REVISION = sql("sqlite", "grow_revision")
_INSERT_KEY = sql("sqlite", "insert_key")
_REVOKE_KEY = sql("sqlite", "revoke_key")


class SqliteWriter:
    """Runs batches. A process that was opened without limits has no owner and does everything but reserve."""

    def __init__(self, path: Path, applied: AppliedLimits | None, clock: Clock, *, is_durable: bool = True) -> None:
        self._path = path
        self._is_durable = is_durable
        self._applied = applied
        self._clock = clock
        self.owner_id = 0
        self._renew_at_ms = 0
        self._purge_at_ms = 0
        self._is_open = False
        self._looks_for_ownerless = True
        """Whoever deletes an owner expires what it held in the same transaction; yet the first round looks."""

    def open(self) -> None:
        """Create or upgrade the store, apply the limits and register this process.

        Raises:
            LedgerUnavailable: the file can't be used.
            LedgerError: a newer Spendfuse has written it.
        """
        with store_errors(), contextlib.ExitStack() as undo:
            self._lock = FileLock(lock_path(self._path))
            undo.callback(self._lock.close)
            self._owners = OwnerFiles(self._path)
            undo.callback(self._owners.release)
            with self._lock, contextlib.ExitStack() as undo_locked:
                self._connection = connect_writer(self._path, is_durable=self._is_durable)
                undo_locked.callback(self._connection.close)
                self._prepare()
                undo_locked.pop_all()
            undo.pop_all()
        self._books = Books(self._connection, self._applied)
        self._is_open = True

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """See `Engine.run`."""
        if not self._is_open:
            raise LedgerClosed("the store has been closed")
        try:
            with store_errors(), self._lock, transaction(self._connection):
                outcomes = self._run(operations)
        except BaseException:
            self._looks_for_ownerless = True
            self._books.drop(self._applied)
            raise
        self._applied = self._books.own
        return outcomes

    def close(self) -> None:
        """End this owner, expire what it holds and release the store, all under the lock.

        Whatever fails, the owner's file is released, so that another process will expire what is left.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            with store_errors(), self._lock:
                try:
                    self._end_owner()
                finally:
                    # The last connection to close runs a checkpoint.
                    self._connection.close()
        finally:
            self._owners.release()
            self._lock.close()
        if self.owner_id:
            self._owners.forget(self.owner_id)

    def _prepare(self) -> None:
        with transaction(self._connection):
            now_ms = self._clock.now_ns() // NS_PER_MS
            migrate(self._connection, now_ms)
            if self._applied is not None:
                apply_limits(self._connection, self._applied, now_ms)
                self._register(now_ms)

    def _run(self, operations: Sequence[Operation]) -> list[Outcome]:
        now_ns = self._clock.now_ns()
        if self._books.refresh() and self.owner_id:
            self._keep_registered(now_ns // NS_PER_MS)
        batch = SqliteBatch(self._connection, self._books, owner_id=self.owner_id, now_ns=now_ns)
        batch.read([one.reservation_id for one in operations if isinstance(one, CallOperation)])
        outcomes = [self._execute(batch, one, now_ns // NS_PER_MS) for one in operations]
        batch.write()
        if not operations:
            self._renew_lease(now_ns // NS_PER_MS)
        return outcomes

    def _execute(self, batch: SqliteBatch, operation: Operation, now_ms: int) -> Outcome:
        if isinstance(operation, BreakerOperation):
            return run_now(run_breakers(SqliteBreakers(self._connection), operation, now_ms))
        match operation:
            case Reserve():
                return batch.reserve(operation) if self.owner_id else WITHOUT_LIMITS
            case Settle():
                return batch.settle(operation)
            case Void():
                return batch.void(operation)
            case Extend():
                return batch.extend(operation)
            case ExpireDue():
                return self._expire_due(batch, now_ms)
            case CountRefusals():
                return self._count_refusals(operation, now_ms)
            case Record():
                return batch.record(operation)
            case SetAmount():
                return self._set_amount(batch, operation, now_ms)
            case ApplyLimits():
                return self._apply(batch, operation, now_ms)
            case Upkeep():
                batch.write()
                return self._keep_up(operation, now_ms)
            case Repair():
                batch.write()
                return self._repair(operation, now_ms)
            case AddKey():
                return self._add_key(operation, now_ms)
            case RevokeKey():
                return self._revoke_key(operation, now_ms)
            case NoteSpent():
                return note_spent(self._connection, operation, now_ms)
            case ClearOverrun():
                return clear_overrun(self._connection, operation.target)
            case RaiseAlerts():
                return insert_alerts(self._connection, operation.alerts, now_ms)
            case OutboxStep():
                batch.write()
                return outbox_step(self._connection, operation, now_ms)
            case _:
                assert_never(operation)

    def _renew_lease(self, now_ms: int) -> None:
        self._connection.execute(_RENEW_LEASE, (now_ms + LEASE_MS, self.owner_id)).fetchall()
        self._renew_at_ms = now_ms + LEASE_RENEWAL_MS

    def _expire_due(self, batch: SqliteBatch, now_ms: int) -> tuple[Entry, ...]:
        if self.owner_id and now_ms >= self._renew_at_ms:
            self._renew_lease(now_ms)
        has_ownerless = self._looks_for_ownerless
        for (owner_id,) in self._connection.execute(_SELECT_OWNERS).fetchall():
            if owner_id != self.owner_id and self._owners.is_gone(owner_id):
                self._connection.execute(_DELETE_OWNER, (owner_id,))
                self._owners.forget(owner_id)
                has_ownerless = True
        if now_ms >= self._purge_at_ms:
            self._connection.execute(_DELETE_IDLE_RATES, (now_ms * NS_PER_MS,))
            self._connection.execute(_DELETE_OPENED_SUBJECTS, (hour_of(now_ms),))
            self._purge_at_ms = now_ms + PURGE_INTERVAL_MS
        batch.write()
        if end_amounts(self._connection, now_ms):
            self._books.reload_limits()
        self._looks_for_ownerless = False
        return batch.expire_due(has_ownerless=has_ownerless)

    def _count_refusals(self, operation: CountRefusals, now_ms: int) -> None:
        rows = [
            (hour_of(now_ms), one.code, one.limit_name, one.feature, one.user, int(one.shadow), one.count)
            for one in operation.counts
        ]
        self._connection.executemany(_UPSERT_REFUSAL, rows)

    def _set_amount(self, batch: SqliteBatch, operation: SetAmount, now_ms: int) -> LedgerError | None:
        stored = self._books.stored_limit(operation.limit_name)
        if stored is None:
            return LimitUnknown(f"no limit in force is named {operation.limit_name!r}")
        if (wrong := wrong_subject(stored.limit, operation.subject)) is not None:
            return wrong
        if operation.until_ms is not None and operation.until_ms <= now_ms:
            return END_IS_OVER
        batch.write()
        set_amount(self._connection, stored, operation, now_ms)
        self._books.reload_limits()
        return None

    def _apply(self, batch: SqliteBatch, operation: ApplyLimits, now_ms: int) -> LedgerError | None:
        if not self.owner_id:
            return WITHOUT_LIMITS
        # The fold by which a limit opens is that of what is stored.
        batch.write()
        apply_limits(self._connection, operation.applied, now_ms)
        self._books.own = operation.applied
        self._books.reload_limits()
        return None

    def _keep_up(self, operation: Upkeep, now_ms: int) -> bool:
        piece = keep_up(self._connection, retention_ms=operation.retention_ms, now_ms=now_ms)
        if piece is Piece.LIMITS_CHANGED:
            self._books.reload_limits()
        return piece is not Piece.NOTHING

    def _repair(self, operation: Repair, now_ms: int) -> bool:
        is_repaired = repair(self._connection, operation.audit, now_ms)
        self._books.reload_limits()
        for one in operation.audit.found:
            if isinstance(one, StaleReservation):
                self._books.open.pop(one.reservation_id, None)
        return is_repaired

    def _add_key(self, operation: AddKey, now_ms: int) -> LedgerError | None:
        key = operation.record
        labels, labels_from = json.dumps(dict(key.labels)), json.dumps(key.labels_from)
        row = (key.name, key.digest, labels, labels_from, key.created_at_ms or now_ms, key.revoked_at_ms)
        try:
            self._connection.execute(_INSERT_KEY, row)
        except sqlite3.IntegrityError:
            return LedgerError(f"a live key named {key.name!r}, or with the same secret, is stored already")
        self._connection.execute(_GROW_REVISION, (Topic.KEYS,))
        return None

    def _revoke_key(self, operation: RevokeKey, now_ms: int) -> bool:
        if not self._connection.execute(_REVOKE_KEY, (now_ms, operation.name)).fetchall():
            return False
        self._connection.execute(_GROW_REVISION, (Topic.KEYS,))
        return True

    def _register(self, now_ms: int) -> None:
        """Become an owner with a number that no other owner shares, nor any call id of its."""
        taken = {row[0] % _OWNERS_APART for row in self._connection.execute(_SELECT_OWNERS)}
        row = (now_ms, now_ms + LEASE_MS, os.getpid(), socket.gethostname())
        while True:
            (owner_id,) = self._connection.execute(_INSERT_OWNER, row).fetchone()
            if owner_id % _OWNERS_APART not in taken or len(taken) >= _OWNERS_APART:
                break
            self._connection.execute(_DELETE_OWNER, (owner_id,))
        self._owners.claim(owner_id)
        self.owner_id = owner_id
        self._renew_at_ms = now_ms + LEASE_RENEWAL_MS

    def _keep_registered(self, now_ms: int) -> None:
        """Register anew when this owner was taken for dead: what it held has been, or will be, expired."""
        if self.owner_id not in {row[0] for row in self._connection.execute(_SELECT_OWNERS)}:
            self._register(now_ms)

    def _end_owner(self) -> None:
        if not self.owner_id:
            return
        with transaction(self._connection):
            now_ns = self._clock.now_ns()
            self._books.refresh()
            self._connection.execute(_DELETE_OWNER, (self.owner_id,))
            batch = SqliteBatch(self._connection, self._books, owner_id=self.owner_id, now_ns=now_ns)
            batch.expire_due(has_ownerless=True)
            batch.write()
