"""Auditing a SQLite store within a snapshot, and repairing it within a transaction of the writer."""

import sqlite3

from spendfuse.ledger.applied import window_of
from spendfuse.ledger.auditing import (
    RepairRow,
    balance_mismatches,
    balances_of,
    day_mismatch,
    lacking,
    repair_row,
    rollup_mismatch,
    stale_reservation,
)
from spendfuse.ledger.operations import Audit
from spendfuse.ledger.pieces import open_windows
from spendfuse.ledger.sqlite_limits import Fold, limits_in_force, overrides, positions
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import BalanceMismatch, DayMismatch, Mismatch, RollupMismatch, StaleReservation

_SELECT_BASIS = sql("sqlite", "select_basis")
_SELECT_AUDITED_BALANCES = sql("sqlite", "select_audited_balances")
_SELECT_STALE_RESERVATIONS = sql("sqlite", "select_stale_reservations")
_AUDIT_SPEND = sql("sqlite", "audit_spend")
_AUDIT_DAYS = sql("sqlite", "audit_days")
_CORRECT_BALANCE = sql("sqlite", "correct_balance")
_INSERT_BALANCE = sql("sqlite", "insert_balance")
_UPSERT_SPEND = sql("sqlite", "upsert_spend")
_DELETE_EMPTY_SPEND = sql("sqlite", "delete_empty_spend")
_CORRECT_DAY = sql("sqlite", "correct_day")
_DELETE_EMPTY_DAY = sql("sqlite", "delete_empty_day")
_DELETE_RESERVATION = sql("sqlite", "delete_reservation")
_INSERT_REPAIR = sql("sqlite", "insert_repair")


def audit(connection: sqlite3.Connection, now_ms: int) -> Audit:
    """See `Ledger.audit`. Folds the entries themselves, never the rollups."""
    known = positions(connection)
    found: list[Mismatch] = [stale_reservation(row) for row in connection.execute(_SELECT_STALE_RESERVATIONS)]
    stored = {one.limit_id: one for one in limits_in_force(connection)}
    kept = balances_of(connection.execute(_SELECT_AUDITED_BALANCES, (known.horizon_ms, now_ms)))
    for one, window in open_windows(stored.values(), now_ms):
        # What all subjects of a window lack is found as well.
        kept.setdefault((one.limit_id, window), {})
    fold = Fold(connection)
    for (limit_id, window), balances in kept.items():
        one = stored[limit_id]
        found += balance_mismatches(one, window, balances, fold.of(one.limit, window))
    since = {"horizon_ms": known.horizon_ms, "until_ms": known.rolled_up_until_ms}
    found += [rollup_mismatch(row) for row in connection.execute(_AUDIT_SPEND, since)]
    found += [day_mismatch(row) for row in connection.execute(_AUDIT_DAYS, since)]
    return Audit(tuple(found), _basis(connection))


def repair(connection: sqlite3.Connection, audit: Audit, now_ms: int) -> bool:
    """See `Ledger.repair`; within the caller's transaction."""
    if _basis(connection) != audit.basis:
        return False
    rows: list[RepairRow] = []
    for one in audit.found:
        match one:
            case BalanceMismatch():
                rows.append(_correct_balance(connection, one, now_ms))
                continue
            case RollupMismatch():
                connection.execute(_UPSERT_SPEND, (one.bucket_ms, one.label_set_id, *lacking(one)))
                connection.execute(_DELETE_EMPTY_SPEND, (one.bucket_ms, one.label_set_id))
            case DayMismatch():
                connection.execute(_CORRECT_DAY, (one.label, one.day_ms, one.value, *lacking(one)))
                connection.execute(_DELETE_EMPTY_DAY, (one.label, one.day_ms, one.value))
            case StaleReservation():
                connection.execute(_DELETE_RESERVATION, (one.reservation_id,))
        rows.append(repair_row(one, now_ms))
    connection.executemany(_INSERT_REPAIR, rows)
    return True


def _basis(connection: sqlite3.Connection) -> tuple[int, int]:
    repair_no, revision = connection.execute(_SELECT_BASIS).fetchone()
    return repair_no, revision


def _correct_balance(connection: sqlite3.Connection, one: BalanceMismatch, now_ms: int) -> RepairRow:
    (stored,) = [each for each in limits_in_force(connection) if each.limit.name == one.limit_name]
    limit, window = stored.limit, window_of(stored.limit, one.window_starts_at_ms)
    settled, reserved = one.settled_by_entries - one.settled, one.reserved_by_reservations - one.reserved
    key = {"limit_id": stored.limit_id, "subject": one.subject, "window_no": window.number}
    moved = connection.execute(_CORRECT_BALANCE, {**key, "settled": settled, "reserved": reserved}).fetchone()
    if moved is None:
        override = overrides(connection).get((stored.limit_id, one.subject))
        amount = limit.amount if override is None else override.amount
        ceiling = max(amount, settled + reserved) if limit.is_enforced else None
        columns = (*key.values(), window.starts_at_ms, window.ends_at_ms)
        connection.execute(_INSERT_BALANCE, (*columns, amount, ceiling, settled, reserved, 0))
        moved = (settled, reserved)
    before = (moved[0] - settled, moved[1] - reserved)
    return repair_row(one, now_ms, before=before, after=moved)
