"""Limits in a PostgreSQL store: applying a config, amounts for one subject, and the fold by which a balance opens.

Everything that changes something here runs alone with the store (`lock_store`), as it touches rows that can't be named
beforehand. See `sqlite_limits` for when a balance opens at the fold.
"""

import json

from spendfuse.core.labels import FLEETING_LABELS, Labels, Subject
from spendfuse.core.limits import Limit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.subjects import each_text
from spendfuse.core.windows import Window
from spendfuse.ledger.applied import AppliedLimits, window_of
from spendfuse.ledger.definitions import Override, StoredLimit, limit_from_text, limit_text
from spendfuse.ledger.folding import Positions, Sum, fits_rollup, fold, sums
from spendfuse.ledger.operations import SetAmount
from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.statements import sql

_LOCK_STORE = sql("postgres", "lock_store")
_SELECT_NEWEST_CONFIG = sql("postgres", "select_newest_config")
_INSERT_CONFIG = sql("postgres", "insert_config")
_SELECT_LIMITS = sql("postgres", "select_limits")
_SELECT_LIMIT = sql("postgres", "select_limit")
_UPSERT_LIMIT = sql("postgres", "upsert_limit")
_DEACTIVATE_LIMIT = sql("postgres", "deactivate_limit")
_DELETE_BALANCES = sql("postgres", "delete_balances")
_DELETE_RATES = sql("postgres", "delete_rates")
_UPDATE_AMOUNTS = sql("postgres", "update_amounts")
_DELETE_RAISED_SPENT = sql("postgres", "delete_raised_spent")
_DELETE_SPENT = sql("postgres", "delete_spent")
_UPDATE_ENFORCEMENT = sql("postgres", "update_enforcement")
_SELECT_OVERRIDES = sql("postgres", "select_overrides")
_UPSERT_OVERRIDE = sql("postgres", "upsert_override")
_DELETE_OVERRIDE = sql("postgres", "delete_override")
_HAS_ENDED_OVERRIDES = sql("postgres", "has_ended_overrides")
_DELETE_ENDED_OVERRIDES = sql("postgres", "delete_ended_overrides")
_INSERT_BALANCES = sql("postgres", "insert_balances")
_INSERT_SEEN_SUBJECTS = sql("postgres", "insert_seen_subjects")
_CARRY = sql("postgres", "carry")
_GROW_REVISION = sql("postgres", "grow_revision")
_FOLD_ENTRIES = sql("postgres", "fold_entries")
_FOLD_SPEND = sql("postgres", "fold_spend")
_FOLD_RESERVATIONS = sql("postgres", "fold_reservations")
_SELECT_POSITIONS = sql("postgres", "select_positions")
_SELECT_LABEL_SETS = sql("postgres", "select_label_sets")


async def lock_store(connection: PostgresConnection) -> None:
    """Wait until no batch runs, and let none begin before this transaction ends. Must come before any row is locked."""
    await connection.rows(_LOCK_STORE)


async def newest_hash(connection: PostgresConnection) -> str:
    """The hash of the config that rules; empty while none was applied."""
    row = await connection.row(_SELECT_NEWEST_CONFIG)
    return "" if row is None else row[0]


async def limits_in_force(connection: PostgresConnection) -> list[StoredLimit]:
    """All limits that every call is counted under now."""
    rows = await connection.rows(_SELECT_LIMITS)
    return [StoredLimit(limit_id, limit_from_text(text), since_ms) for limit_id, text, since_ms in rows]


async def overrides(connection: PostgresConnection) -> dict[tuple[int, str], Override]:
    """The amounts that beat the config's, by limit number and subject."""
    rows = await connection.rows(_SELECT_OVERRIDES)
    return {(limit_id, subject): Override(amount, until_ms) for limit_id, subject, amount, until_ms in rows}


async def label_sets(connection: PostgresConnection) -> dict[int, Labels]:
    """All interned labels, by number."""
    return {number: json.loads(text) for number, text in await connection.rows(_SELECT_LABEL_SETS)}


async def positions(connection: PostgresConnection) -> Positions:
    """How far upkeep has come."""
    row = await connection.row(_SELECT_POSITIONS)
    assert row is not None
    return Positions(*row)


async def apply_limits(connection: PostgresConnection, applied: AppliedLimits, now_ms: int) -> None:
    """Make these limits the ones that rule, within the caller's transaction, alone with the store."""
    if await newest_hash(connection) != applied.hash:
        await connection.change(_INSERT_CONFIG, applied.hash, now_ms)
    wanted = {limit.identity for limit in applied.limits}
    for stored in await limits_in_force(connection):
        if stored.limit.identity not in wanted:
            for statement in (_DEACTIVATE_LIMIT, _DELETE_BALANCES, _DELETE_RATES, _DELETE_SPENT):
                await connection.change(statement, stored.limit_id)
    for limit in applied.limits:
        await _apply(connection, limit, now_ms)
    await connection.change(_GROW_REVISION, "limits")


async def set_amount(connection: PostgresConnection, stored: StoredLimit, operation: SetAmount, now_ms: int) -> None:
    """See `Ledger.set_amount`; within the caller's transaction, alone with the store."""
    limit, limit_id, subject, amount = stored.limit, stored.limit_id, operation.subject, operation.amount
    if amount is None:
        await connection.change(_DELETE_OVERRIDE, limit_id, subject)
        amount = limit.amount
    else:
        await connection.change(_UPSERT_OVERRIDE, limit_id, subject, amount, operation.until_ms)
        await _note_subjects(connection, {(limit.each, subject)})
    await _update_amounts(connection, limit, limit_id, amount=amount, subject=subject, now_ms=now_ms)
    await connection.change(_GROW_REVISION, "limits")


async def has_ended_amounts(connection: PostgresConnection, clock_ms: int | None) -> bool:
    """Whether some amount's end has come, so that `end_amounts` is due. `clock_ms` overrules the store's clock."""
    found: bool = await connection.only(_HAS_ENDED_OVERRIDES, clock_ms)
    return found


async def end_amounts(connection: PostgresConnection, now_ms: int) -> None:
    """Take back the amounts whose end has come; within the caller's transaction, alone with the store."""
    ended = await connection.rows(_DELETE_ENDED_OVERRIDES, now_ms)
    limits = {stored.limit_id: stored.limit for stored in await limits_in_force(connection)}
    for limit_id, subject in ended:
        # A limit that is out of force has no balances.
        if (limit := limits.get(limit_id)) is not None:
            await _update_amounts(connection, limit, limit_id, amount=limit.amount, subject=subject, now_ms=now_ms)
    if ended:
        await connection.change(_GROW_REVISION, "limits")


async def _update_amounts(
    connection: PostgresConnection, limit: Limit, limit_id: int, *, amount: int, subject: str | None, now_ms: int
) -> None:
    """Give the current balances of a limit another amount: of one subject, or of all that have no override."""
    await connection.change(_UPDATE_AMOUNTS, limit_id, amount, limit.is_enforced, subject, now_ms)
    if await connection.rows(_DELETE_RAISED_SPENT, limit_id, amount, subject):
        await connection.change(_GROW_REVISION, "spent")


async def _apply(connection: PostgresConnection, limit: Limit, now_ms: int) -> None:
    text, since_ms = await connection.row(_SELECT_LIMIT, limit.identity) or ("", None)
    limit_id: int = await connection.only(
        _UPSERT_LIMIT, limit.identity, limit_text(limit), now_ms if since_ms is None else since_ms
    )
    if since_ms is None:
        await _note_known_subjects(connection, limit)
        if not limit.is_rate:
            await _open_balances(connection, limit, limit_id, now_ms)
        return
    if limit.is_rate:
        return
    before = limit_from_text(text)
    if before.is_enforced != limit.is_enforced:
        await connection.change(_UPDATE_ENFORCEMENT, limit_id, limit.is_enforced, now_ms)
    if before.amount != limit.amount:
        await _update_amounts(connection, limit, limit_id, amount=limit.amount, subject=None, now_ms=now_ms)


async def _note_subjects(connection: PostgresConnection, subjects: set[Subject]) -> None:
    each, texts = [each_text(one) for one, _ in subjects], [text for _, text in subjects]
    await connection.change(_INSERT_SEEN_SUBJECTS, each, texts)


async def _note_known_subjects(connection: PostgresConnection, limit: Limit) -> None:
    """Nobody of whom a call was admitted before is new to a limit that counts by labels which none counted by before.

    Of fleeting labels only what the limit's current window has is known: finding the others would read all entries.
    """
    if limit.has_claimed_subjects and FLEETING_LABELS.isdisjoint(limit.each):
        known = (await label_sets(connection)).values()
        await _note_subjects(connection, {(limit.each, limit.subject_of(labels)) for labels in known})


async def _open_balances(connection: PostgresConnection, limit: Limit, limit_id: int, now_ms: int) -> None:
    window = window_of(limit, now_ms)
    own_amounts = {key: override.amount for key, override in (await overrides(connection)).items()}
    opening = Fold(connection)
    folded = await opening.of(limit, window, use_rollup=True)
    await _note_subjects(connection, {(limit.each, subject) for subject in folded})
    subjects = sorted(folded)
    amounts = [own_amounts.get((limit_id, subject), limit.amount) for subject in subjects]
    settled, reserved = [folded[one][0] for one in subjects], [folded[one][1] for one in subjects]
    # What was spent before the limit was in force counts as committed then, so it is not an overrun.
    ceilings = [
        max(amount, settled[place] + reserved[place]) if limit.is_enforced else None
        for place, amount in enumerate(amounts)
    ]
    key = (limit_id, window.number, window.starts_at_ms, window.ends_at_ms)
    await connection.change(_INSERT_BALANCES, *key, subjects, amounts, ceilings, settled, reserved)
    carried = await opening.carried(limit, window)
    if carried:
        places = [limit_id] * len(carried), list(carried), [window.number] * len(carried)
        await connection.change(_CARRY, list(carried.values()), *places)


class Fold:
    """Adds up entries and open reservations by limit and subject, within one transaction."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection
        self._label_sets: dict[int, Labels] | None = None
        self._sums: dict[tuple[str, int, int], list[Sum]] = {}

    async def of(self, limit: Limit, window: Window, *, use_rollup: bool = False) -> dict[str, tuple[int, int]]:
        """Settled and reserved of every subject that has an entry or an open reservation in the window."""
        until_ms = AMOUNT_MAX if window.ends_at_ms is None else window.ends_at_ms
        entries = _FOLD_SPEND if use_rollup and fits_rollup(limit, window) else _FOLD_ENTRIES
        return fold(
            limit,
            settled=await self._sums_of(entries, window.starts_at_ms, until_ms),
            reserved=await self._sums_of(_FOLD_RESERVATIONS, window.starts_at_ms, until_ms),
        )

    async def carried(self, limit: Limit, window: Window) -> dict[str, int]:
        """What entries have settled that retention has deleted: the part of `of`, by the rollup, that is not among the
        entries any more."""
        until_ms = (await positions(self._connection)).horizon_ms
        if until_ms <= window.starts_at_ms or not fits_rollup(limit, window):
            return {}
        both = [await self._sums_of(one, window.starts_at_ms, until_ms) for one in (_FOLD_SPEND, _FOLD_ENTRIES)]
        whole, left = [fold(limit, settled=one, reserved=()) for one in both]
        return {subject: settled - left.get(subject, (0, 0))[0] for subject, (settled, _) in whole.items()}

    async def _sums_of(self, statement: str, from_ms: int, until_ms: int) -> list[Sum]:
        if self._label_sets is None:
            self._label_sets = await label_sets(self._connection)
        key = (statement, from_ms, until_ms)
        if key not in self._sums:
            rows = await self._connection.rows(statement, from_ms, until_ms)
            self._sums[key] = list(sums(rows, self._label_sets))
        return self._sums[key]
