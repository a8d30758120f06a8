"""Auditing a PostgreSQL store within a snapshot, and repairing it within a transaction that is alone with the store."""

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
from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.postgres_limits import Fold, limits_in_force, overrides, positions
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import BalanceMismatch, DayMismatch, Mismatch, RollupMismatch, StaleReservation

_SELECT_BASIS = sql("postgres", "select_basis")
_SELECT_AUDITED_BALANCES = sql("postgres", "select_audited_balances")
_SELECT_STALE_RESERVATIONS = sql("postgres", "select_stale_reservations")
_AUDIT_SPEND = sql("postgres", "audit_spend")
_AUDIT_DAYS = sql("postgres", "audit_days")
_CORRECT_BALANCE = sql("postgres", "correct_balance")
_INSERT_BALANCES = sql("postgres", "insert_balances")
_CORRECT_SPEND = sql("postgres", "correct_spend")
_DELETE_EMPTY_SPEND = sql("postgres", "delete_empty_spend")
_CORRECT_DAY = sql("postgres", "correct_day")
_DELETE_EMPTY_DAY = sql("postgres", "delete_empty_day")
_DELETE_RESERVATION = sql("postgres", "delete_reservation")
_INSERT_REPAIR = sql("postgres", "insert_repair")


async def audit(connection: PostgresConnection, now_ms: int) -> Audit:
    """See `Ledger.audit`. Folds the entries themselves, never the rollups."""
    known = await positions(connection)
    found: list[Mismatch] = [stale_reservation(row) for row in await connection.rows(_SELECT_STALE_RESERVATIONS)]
    stored = {one.limit_id: one for one in await limits_in_force(connection)}
    kept = balances_of(await connection.rows(_SELECT_AUDITED_BALANCES, known.horizon_ms, now_ms))
    for one, window in open_windows(stored.values(), now_ms):
        # What all subjects of a window lack is found as well.
        kept.setdefault((one.limit_id, window), {})
    fold = Fold(connection)
    for (limit_id, window), balances in kept.items():
        one = stored[limit_id]
        found += balance_mismatches(one, window, balances, await fold.of(one.limit, window))
    found += [rollup_mismatch(row) for row in await connection.rows(_AUDIT_SPEND, known.horizon_ms)]
    days = await connection.rows(_AUDIT_DAYS, known.horizon_ms, known.rolled_up_until_ms)
    found += [day_mismatch(row) for row in days]
    return Audit(tuple(found), await _basis(connection))


async def repair(connection: PostgresConnection, audit: Audit, now_ms: int) -> bool:
    """See `Ledger.repair`; within the caller's transaction, alone with the store."""
    if await _basis(connection) != audit.basis:
        return False
    for one in audit.found:
        row = repair_row(one, now_ms) if not isinstance(one, BalanceMismatch) else None
        match one:
            case BalanceMismatch():
                row = await _correct_balance(connection, one, now_ms)
            case RollupMismatch():
                await connection.change(_CORRECT_SPEND, one.bucket_ms, one.label_set_id, *lacking(one))
                await connection.change(_DELETE_EMPTY_SPEND, one.bucket_ms, one.label_set_id)
            case DayMismatch():
                await connection.change(_CORRECT_DAY, one.label, one.day_ms, one.value, *lacking(one))
                await connection.change(_DELETE_EMPTY_DAY, one.label, one.day_ms, one.value)
            case StaleReservation():
                await connection.change(_DELETE_RESERVATION, one.reservation_id)
        assert row is not None
        await connection.change(_INSERT_REPAIR, *row)
    return True


async def _basis(connection: PostgresConnection) -> tuple[int, int]:
    row = await connection.row(_SELECT_BASIS)
    assert row is not None
    return row[0], row[1]


async def _correct_balance(connection: PostgresConnection, one: BalanceMismatch, now_ms: int) -> RepairRow:
    (stored,) = [each for each in await limits_in_force(connection) if each.limit.name == one.limit_name]
    limit, window = stored.limit, window_of(stored.limit, one.window_starts_at_ms)
    settled, reserved = one.settled_by_entries - one.settled, one.reserved_by_reservations - one.reserved
    key = (stored.limit_id, one.subject, window.number)
    moved = await connection.row(_CORRECT_BALANCE, settled, reserved, *key)
    if moved is None:
        override = (await overrides(connection)).get((stored.limit_id, one.subject))
        amount = limit.amount if override is None else override.amount
        ceiling = max(amount, settled + reserved) if limit.is_enforced else None
        place = (stored.limit_id, window.number, window.starts_at_ms, window.ends_at_ms)
        columns = [[one.subject], [amount], [ceiling], [settled], [reserved]]
        await connection.change(_INSERT_BALANCES, *place, *columns)
        moved = (settled, reserved)
    before = (moved[0] - settled, moved[1] - reserved)
    return repair_row(one, now_ms, before=before, after=moved)
