"""Limits in a SQLite store: applying a config, and the fold by which a balance opens.

A balance is at every moment the fold of the entries and open reservations in its window that its limit covers. A limit
that comes into force therefore opens its current window's balances at that fold, at once and for all subjects; whatever
subject is seen later in a limit's life starts at zero.
"""

import json
import sqlite3

from spendfuse.core.labels import FLEETING_LABELS
from spendfuse.core.limits import Limit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.windows import Window
from spendfuse.ledger.applied import AppliedLimits, window_of
from spendfuse.ledger.definitions import Override, StoredLimit, limit_from_text, limit_text
from spendfuse.ledger.folding import Positions, Sum, fits_rollup, fold, sums
from spendfuse.ledger.operations import SetAmount
from spendfuse.ledger.sqlite_subjects import note_subjects
from spendfuse.ledger.statements import sql

_SELECT_NEWEST_CONFIG = sql("sqlite", "select_newest_config")
_INSERT_CONFIG = sql("sqlite", "insert_config")
_SELECT_LIMITS = sql("sqlite", "select_limits")
_SELECT_LIMIT = sql("sqlite", "select_limit")
_UPSERT_LIMIT = sql("sqlite", "upsert_limit")
_DEACTIVATE_LIMIT = sql("sqlite", "deactivate_limit")
_DELETE_BALANCES = sql("sqlite", "delete_balances")
_DELETE_RATES = sql("sqlite", "delete_rates")
_UPDATE_AMOUNTS = sql("sqlite", "update_amounts")
_DELETE_RAISED_SPENT = sql("sqlite", "delete_raised_spent")
_DELETE_SPENT = sql("sqlite", "delete_spent")
_UPDATE_ENFORCEMENT = sql("sqlite", "update_enforcement")
_SELECT_OVERRIDES = sql("sqlite", "select_overrides")
_UPSERT_OVERRIDE = sql("sqlite", "upsert_override")
_DELETE_OVERRIDE = sql("sqlite", "delete_override")
_DELETE_ENDED_OVERRIDES = sql("sqlite", "delete_ended_overrides")
_INSERT_BALANCE = sql("sqlite", "insert_balance")
_CARRY = sql("sqlite", "carry")
_GROW_REVISION = sql("sqlite", "grow_revision")
_FOLD_ENTRIES = sql("sqlite", "fold_entries")
_FOLD_SPEND = sql("sqlite", "fold_spend")
_FOLD_RESERVATIONS = sql("sqlite", "fold_reservations")
_SELECT_POSITIONS = sql("sqlite", "select_positions")
_SELECT_LABEL_SETS = sql("sqlite", "select_label_sets")


def newest_hash(connection: sqlite3.Connection) -> str:
    """The hash of the config that rules; empty while none was applied."""
    row = connection.execute(_SELECT_NEWEST_CONFIG).fetchone()
    return "" if row is None else row[1]


def limits_in_force(connection: sqlite3.Connection) -> list[StoredLimit]:
    """All limits that every call is counted under now."""
    rows = connection.execute(_SELECT_LIMITS).fetchall()
    return [StoredLimit(limit_id, limit_from_text(text), since_ms) for limit_id, text, since_ms in rows]


def overrides(connection: sqlite3.Connection) -> dict[tuple[int, str], Override]:
    """The amounts that beat the config's, by limit number and subject."""
    rows = connection.execute(_SELECT_OVERRIDES)
    return {(limit_id, subject): Override(amount, until_ms) for limit_id, subject, amount, until_ms in rows}


def positions(connection: sqlite3.Connection) -> Positions:
    """How far upkeep has come."""
    return Positions(*connection.execute(_SELECT_POSITIONS).fetchone())


def apply_limits(connection: sqlite3.Connection, applied: AppliedLimits, now_ms: int) -> None:
    """Make these limits the ones that rule, within the caller's transaction."""
    if newest_hash(connection) != applied.hash:
        connection.execute(_INSERT_CONFIG, (applied.hash, now_ms))
    wanted = {limit.identity for limit in applied.limits}
    for stored in limits_in_force(connection):
        if stored.limit.identity not in wanted:
            for statement in (_DEACTIVATE_LIMIT, _DELETE_BALANCES, _DELETE_RATES, _DELETE_SPENT):
                connection.execute(statement, (stored.limit_id,))
    for limit in applied.limits:
        _apply(connection, limit, now_ms)
    connection.execute(_GROW_REVISION, ("limits",))


def set_amount(connection: sqlite3.Connection, stored: StoredLimit, operation: SetAmount, now_ms: int) -> None:
    """See `Ledger.set_amount`; within the caller's transaction."""
    limit, limit_id, subject, amount = stored.limit, stored.limit_id, operation.subject, operation.amount
    if amount is None:
        connection.execute(_DELETE_OVERRIDE, (limit_id, subject))
        amount = limit.amount
    else:
        connection.execute(_UPSERT_OVERRIDE, (limit_id, subject, amount, operation.until_ms))
        note_subjects(connection, [(limit.each, subject)])
    _update_amounts(connection, limit, limit_id, amount=amount, subject=subject, now_ms=now_ms)
    connection.execute(_GROW_REVISION, ("limits",))


def end_amounts(connection: sqlite3.Connection, now_ms: int) -> bool:
    """Take back the amounts whose end has come, within the caller's transaction; False when there are none."""
    ended = connection.execute(_DELETE_ENDED_OVERRIDES, (now_ms,)).fetchall()
    if not ended:
        return False
    limits = {stored.limit_id: stored.limit for stored in limits_in_force(connection)}
    for limit_id, subject in ended:
        # A limit that is out of force has no balances.
        if (limit := limits.get(limit_id)) is not None:
            _update_amounts(connection, limit, limit_id, amount=limit.amount, subject=subject, now_ms=now_ms)
    connection.execute(_GROW_REVISION, ("limits",))
    return True


def _apply(connection: sqlite3.Connection, limit: Limit, now_ms: int) -> None:
    _, text, since_ms = connection.execute(_SELECT_LIMIT, (limit.identity,)).fetchone() or (0, "", None)
    (limit_id,) = connection.execute(
        _UPSERT_LIMIT, (limit.identity, limit_text(limit), now_ms if since_ms is None else since_ms)
    ).fetchone()
    if since_ms is None:
        _note_known_subjects(connection, limit)
        if not limit.is_rate:
            _open_balances(connection, limit, limit_id, now_ms)
        return
    if limit.is_rate:
        return
    before = limit_from_text(text)
    if before.is_enforced != limit.is_enforced:
        connection.execute(_UPDATE_ENFORCEMENT, {"limit_id": limit_id, "enforced": limit.is_enforced, "now_ms": now_ms})
    if before.amount != limit.amount:
        _update_amounts(connection, limit, limit_id, amount=limit.amount, subject=None, now_ms=now_ms)


def _update_amounts(
    connection: sqlite3.Connection, limit: Limit, limit_id: int, *, amount: int, subject: str | None, now_ms: int
) -> None:
    """Give the current balances of a limit another amount: of one subject, or of all that have no override."""
    connection.execute(
        _UPDATE_AMOUNTS,
        {
            "limit_id": limit_id,
            "amount": amount,
            "enforced": limit.is_enforced,
            "subject": subject,
            "now_ms": now_ms,
        },
    )
    raised = {"limit_id": limit_id, "amount": amount, "subject": subject}
    if connection.execute(_DELETE_RAISED_SPENT, raised).fetchall():
        connection.execute(_GROW_REVISION, ("spent",))


def _note_known_subjects(connection: sqlite3.Connection, limit: Limit) -> None:
    """Nobody of whom a call was admitted before is new to a limit that counts by labels which none counted by before.

    Of fleeting labels only what the limit's current window has is known: finding the others would read all entries.
    """
    if limit.has_claimed_subjects and FLEETING_LABELS.isdisjoint(limit.each):
        texts = connection.execute(_SELECT_LABEL_SETS).fetchall()
        note_subjects(connection, {(limit.each, limit.subject_of(json.loads(text))) for _, text in texts})


def _open_balances(connection: sqlite3.Connection, limit: Limit, limit_id: int, now_ms: int) -> None:
    window = window_of(limit, now_ms)
    amounts = {key: override.amount for key, override in overrides(connection).items()}
    opening = Fold(connection)
    folded = opening.of(limit, window, use_rollup=True)
    note_subjects(connection, [(limit.each, subject) for subject in folded])
    for subject, (settled, reserved) in folded.items():
        amount = amounts.get((limit_id, subject), limit.amount)
        ceiling = max(amount, settled + reserved) if limit.is_enforced else None
        # What was spent before the limit was in force counts as committed then, so it is not an overrun.
        key = (limit_id, subject, window.number, window.starts_at_ms, window.ends_at_ms)
        connection.execute(_INSERT_BALANCE, (*key, amount, ceiling, settled, reserved, 0))
    for subject, settled in opening.carried(limit, window).items():
        connection.execute(_CARRY, (settled, limit_id, subject, window.number))


class Fold:
    """Adds up entries and open reservations by limit and subject, within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._label_sets: dict[int, dict[str, str]] = {
            number: json.loads(text) for number, text in connection.execute(_SELECT_LABEL_SETS)
        }
        self._sums: dict[tuple[str, int, int], list[Sum]] = {}

    def of(self, limit: Limit, window: Window, *, use_rollup: bool = False) -> dict[str, tuple[int, int]]:
        """Settled and reserved of every subject that has an entry or an open reservation in the window."""
        until_ms = AMOUNT_MAX if window.ends_at_ms is None else window.ends_at_ms
        entries = _FOLD_SPEND if use_rollup and fits_rollup(limit, window) else _FOLD_ENTRIES
        return fold(
            limit,
            settled=self._sums_of(entries, window.starts_at_ms, until_ms),
            reserved=self._sums_of(_FOLD_RESERVATIONS, window.starts_at_ms, until_ms),
        )

    def carried(self, limit: Limit, window: Window) -> dict[str, int]:
        """What entries have settled that retention has deleted: the part of `of`, by the rollup, that is not among the
        entries any more."""
        until_ms = positions(self._connection).horizon_ms
        if until_ms <= window.starts_at_ms or not fits_rollup(limit, window):
            return {}
        both = [self._sums_of(one, window.starts_at_ms, until_ms) for one in (_FOLD_SPEND, _FOLD_ENTRIES)]
        whole, left = [fold(limit, settled=one, reserved=()) for one in both]
        return {subject: settled - left.get(subject, (0, 0))[0] for subject, (settled, _) in whole.items()}

    def _sums_of(self, statement: str, from_ms: int, until_ms: int) -> list[Sum]:
        key = (statement, from_ms, until_ms)
        if key not in self._sums:
            rows = self._connection.execute(statement, {"from_ms": from_ms, "until_ms": until_ms})
            self._sums[key] = list(sums(rows, self._label_sets))
        return self._sums[key]
