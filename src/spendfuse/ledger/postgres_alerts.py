"""Alerts and their outbox in a PostgreSQL store; what changes something runs within the caller's transaction.

Every step of the outbox runs alone with the store. What is written by a batch takes no lock but those of its rows.
"""

from collections.abc import Sequence

from spendfuse.core.alerts import Alert
from spendfuse.core.breakers import Phase
from spendfuse.ledger.alerts import (
    ALERTS_KEPT_MS,
    BIT,
    DUE_MAX,
    GIVEN_UP_SHOWN_MS,
    HOUR_MS,
    AlertRow,
    ChannelHealth,
    Claim,
    Ended,
    Fate,
    OutboxWork,
    Routed,
    StoredAlert,
    alert_row,
    due_of,
    opened_alert,
    sent_of,
    stored_alert,
    unrouted_of,
    with_deliveries,
)
from spendfuse.ledger.breaker_rows import change_of
from spendfuse.ledger.operations import OutboxStep
from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.statements import sql

_INSERT_ALERTS = sql("postgres", "insert_alerts")
_SELECT_OUTBOX_PULSE = sql("postgres", "select_outbox_pulse")
_TAKE_OUTBOX_LEASE = sql("postgres", "take_outbox_lease")
_NOTE_OUTBOX_FOLLOWED = sql("postgres", "note_outbox_followed")
_SELECT_REVISIONS = sql("postgres", "select_revisions")
_RESOLVE_TURNED_ALERTS = sql("postgres", "resolve_turned_alerts")
_RESOLVE_GONE_ALERTS = sql("postgres", "resolve_gone_alerts")
_RESOLVE_RAISED_ALERTS = sql("postgres", "resolve_raised_alerts")
_RESOLVE_CLEARED_ALERTS = sql("postgres", "resolve_cleared_alerts")
_RESOLVE_BREAKER_ALERTS = sql("postgres", "resolve_breaker_alerts")
_SELECT_BREAKER_CHANGES = sql("postgres", "select_new_breaker_changes")
_DELETE_OLD_ALERTS = sql("postgres", "delete_old_alerts")
_DELETE_OLD_DELIVERIES = sql("postgres", "delete_old_deliveries")
_UPDATE_ROUTED = sql("postgres", "update_routed")
_INSERT_DELIVERY = sql("postgres", "insert_delivery")
_CLAIM_DELIVERY = sql("postgres", "claim_delivery")
_END_DELIVERY = sql("postgres", "end_delivery")
_SELECT_UNROUTED = sql("postgres", "select_unrouted")
_SELECT_DUE_DELIVERIES = sql("postgres", "select_due_deliveries")
_SELECT_SENT = sql("postgres", "select_sent")
_SELECT_ALERTS = sql("postgres", "select_alerts")
_SELECT_DELIVERIES = sql("postgres", "select_deliveries")
_SELECT_CHANNEL_HEALTH = sql("postgres", "select_channel_health")


async def insert_alerts(connection: PostgresConnection, alerts: Sequence[Alert], now_ms: int) -> bool:
    """Write alerts; True when one of them was not there already."""
    if not alerts:
        return False
    rows: dict[str, AlertRow] = {}
    for one in alerts:
        # Of those with one id the first counts.
        rows.setdefault(one.alert_id, alert_row(one, now_ms))
    return bool(await connection.rows(_INSERT_ALERTS, *map(list, zip(*rows.values(), strict=True))))


async def outbox_step(connection: PostgresConnection, operation: OutboxStep, now_ms: int) -> OutboxWork | None:
    """See `AlertLedger.outbox_step`."""
    # How a message ended stays true whoever holds the lease now.
    for ended in operation.ended:
        await _end(connection, ended, now_ms)
    followed = await connection.row(_TAKE_OUTBOX_LEASE, now_ms, operation.holder, now_ms + operation.lease_ms)
    if followed is None:
        return None
    await _follow(connection, *followed, now_ms=now_ms)
    for routed in operation.routed:
        await _route(connection, routed, now_ms)
    for claim in operation.claims:
        await _claim(connection, claim, now_ms)
    return OutboxWork(
        now_ms=now_ms,
        unrouted=unrouted_of(await connection.rows(_SELECT_UNROUTED, DUE_MAX)),
        due=due_of(await connection.rows(_SELECT_DUE_DELIVERIES, now_ms, DUE_MAX)),
        sent_at_ms=sent_of(await connection.rows(_SELECT_SENT, now_ms - HOUR_MS)),
    )


async def has_outbox_work(connection: PostgresConnection, holder: str, now_ms: int) -> bool:
    """See `AlertLedger.has_outbox_work`."""
    row = await connection.row(_SELECT_OUTBOX_PULSE, now_ms, holder)
    return row is not None and all(row)


async def read_alerts(connection: PostgresConnection, since_ms: int) -> list[StoredAlert]:
    """See `AlertLedger.alerts`."""
    alerts = [stored_alert(row) for row in await connection.rows(_SELECT_ALERTS, since_ms)]
    return with_deliveries(alerts, await connection.rows(_SELECT_DELIVERIES, since_ms))


async def read_channel_health(connection: PostgresConnection, now_ms: int) -> list[ChannelHealth]:
    """See `AlertLedger.channel_health`."""
    return [ChannelHealth(*row) for row in await connection.rows(_SELECT_CHANNEL_HEALTH, now_ms - GIVEN_UP_SHOWN_MS)]


async def _follow(connection: PostgresConnection, limits: int, overruns: int, change_no: int, *, now_ms: int) -> None:
    """End what is over, and take in what breakers did."""
    await connection.change(_RESOLVE_TURNED_ALERTS, now_ms)
    revisions: dict[str, int] = dict(await connection.rows(_SELECT_REVISIONS))  # type: ignore[arg-type]
    if revisions["limits"] != limits:
        await connection.change(_RESOLVE_GONE_ALERTS, now_ms)
        await connection.change(_RESOLVE_RAISED_ALERTS, now_ms)
    if revisions["overruns"] != overruns:
        await connection.change(_RESOLVE_CLEARED_ALERTS, now_ms)
    changes = await connection.rows(_SELECT_BREAKER_CHANGES, change_no, DUE_MAX)
    for change in map(change_of, changes):
        change_no = change.number
        if change.after is Phase.CLOSED:
            await connection.change(_RESOLVE_BREAKER_ALERTS, now_ms, change.breaker, change.subject)
        alert = opened_alert(change)
        if alert is not None:
            await insert_alerts(connection, [alert], now_ms)
    await connection.change(_NOTE_OUTBOX_FOLLOWED, revisions["limits"], revisions["overruns"], change_no)
    gone = [number for (number,) in await connection.rows(_DELETE_OLD_ALERTS, now_ms - ALERTS_KEPT_MS)]
    if gone:
        await connection.change(_DELETE_OLD_DELIVERIES, gone)


async def _route(connection: PostgresConnection, routed: Routed, now_ms: int) -> None:
    await connection.change(_UPDATE_ROUTED, BIT[routed.phase], routed.details, routed.number)
    for channel in routed.channels:
        await connection.change(_INSERT_DELIVERY, routed.number, channel, routed.phase.value, now_ms)


async def _claim(connection: PostgresConnection, claim: Claim, now_ms: int) -> None:
    for key in claim.keys:
        again_at_ms = now_ms + claim.retry_in_ms
        await connection.change(_CLAIM_DELIVERY, again_at_ms, now_ms, key.number, key.channel, key.phase.value)


async def _end(connection: PostgresConnection, ended: Ended, now_ms: int) -> None:
    ended_at_ms = None if ended.fate is Fate.PENDING else now_ms
    for place, key in enumerate(ended.keys):
        is_lead = int(place == 0 and ended.fate is Fate.SENT)
        state = (ended.fate.value, now_ms + ended.retry_in_ms, ended_at_ms, ended.error, is_lead)
        await connection.change(_END_DELIVERY, *state, key.number, key.channel, key.phase.value)
