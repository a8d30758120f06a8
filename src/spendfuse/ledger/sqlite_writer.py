"""The one connection of a process that writes to a SQLite store. Everything here runs on the writer's thread."""

import json
import os
import socket
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from spendfuse.clock import Clock
from spendfuse.core.errors import LedgerClosed, LedgerError
from spendfuse.core.reservations import Entry
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.operations import (
    AddKey,
    CountRefusals,
    ExpireDue,
    Extend,
    Operation,
    Outcome,
    Reserve,
    RevokeKey,
    SetAmount,
    Settle,
    Void,
)
from spendfuse.ledger.sqlite_batch import Batch
from spendfuse.ledger.sqlite_books import Books
from spendfuse.ledger.sqlite_file import (
    FileLock,
    OwnerFiles,
    connect_writer,
    lock_path,
    migrate,
    store_errors,
    transaction,
)
from spendfuse.ledger.sqlite_limits import apply_limits, update_amounts
from spendfuse.ledger.statements import sql

LEASE_MS = 30_000
LEASE_RENEWAL_MS = 5_000
IDLE_RATES_INTERVAL_MS = 60_000
HOUR_MS = 3_600_000
_OWNERS_APART = 1_024
"""Call ids carry their owner modulo this: no two that live at once may be equal in it."""

_INSERT_OWNER = sql("sqlite", "insert_owner")
_SELECT_OWNERS = sql("sqlite", "select_owners")
_RENEW_LEASE = sql("sqlite", "renew_lease")
_DELETE_OWNER = sql("sqlite", "delete_owner")
_DELETE_IDLE_RATES = sql("sqlite", "delete_idle_rates")
_UPSERT_REFUSAL = sql("sqlite", "upsert_refusal")
_UPSERT_OVERRIDE = sql("sqlite", "upsert_override")
_DELETE_OVERRIDE = sql("sqlite", "delete_override")
_GROW_REVISION = sql("sqlite", "grow_revision")
_INSERT_KEY = sql("sqlite", "insert_key")
_REVOKE_KEY = sql("sqlite", "revoke_key")


class SqliteWriter:
    """Runs batches. A process that was opened without limits has no owner and does everything but reserve."""

    def __init__(self, path: Path, applied: AppliedLimits | None, clock: Clock) -> None:
        self._path = path
        self._applied = applied
        self._clock = clock
        self.owner_id = 0
        self._renew_at_ms = 0
        self._purge_at_ms = 0
        self._is_open = False

    def open(self) -> None:
        """Create or upgrade the store, apply the limits and register this process.

        Raises:
            LedgerUnavailable: the file can't be used.
            LedgerError: a newer Spendfuse has written it.
        """
        with store_errors():
            self._lock = FileLock(lock_path(self._path))
            self._owners = OwnerFiles(self._path)
            with self._lock:
                self._connection = connect_writer(self._path)
                with transaction(self._connection):
                    now_ms = self._clock.now_ns() // NS_PER_MS
                    migrate(self._connection, now_ms)
                    if self._applied is not None:
                        apply_limits(self._connection, self._applied, now_ms)
                        self._register(now_ms)
        self._books = Books(self._connection, self._applied)
        self._is_open = True

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """See `Engine.run`."""
        if not self._is_open:
            raise LedgerClosed("the store has been closed")
        try:
            with store_errors(), self._lock, transaction(self._connection):
                return self._run(operations)
        except BaseException:
            self._books.drop()
            raise
