"""Alerts and their outbox in a SQLite store; what changes something runs within the caller's write transaction."""

import json
import sqlite3
from collections.abc import Iterable

from spendfuse.core.alerts import Alert
from spendfuse.core.breakers import Phase
from spendfuse.ledger.alerts import (
    ALERTS_KEPT_MS,
    BIT,
    DUE_MAX,
    GIVEN_UP_SHOWN_MS,
    HOUR_MS,
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
from spendfuse.ledger.statements import sql

_INSERT_ALERT = sql("sqlite", "insert_alert")
_SELECT_OUTBOX_PULSE = sql("sqlite", "select_outbox_pulse")
_TAKE_OUTBOX_LEASE = sql("sqlite", "take_outbox_lease")
_NOTE_OUTBOX_FOLLOWED = sql("sqlite", "note_outbox_followed")
_SELECT_REVISIONS = sql("sqlite", "select_revisions")
_RESOLVE_TURNED_ALERTS = sql("sqlite", "resolve_turned_alerts")
_RESOLVE_GONE_ALERTS = sql("sqlite", "resolve_gone_alerts")
_RESOLVE_RAISED_ALERTS = sql("sqlite", "resolve_raised_alerts")
_RESOLVE_CLEARED_ALERTS = sql("sqlite", "resolve_cleared_alerts")
_RESOLVE_BREAKER_ALERTS = sql("sqlite", "resolve_breaker_alerts")
_SELECT_BREAKER_CHANGES = sql("sqlite", "select_new_breaker_changes")
_DELETE_OLD_ALERTS = sql("sqlite", "delete_old_alerts")
_DELETE_OLD_DELIVERIES = sql("sqlite", "delete_old_deliveries")
_UPDATE_ROUTED = sql("sqlite", "update_routed")
_INSERT_DELIVERY = sql("sqlite", "insert_delivery")
_CLAIM_DELIVERY = sql("sqlite", "claim_delivery")
_END_DELIVERY = sql("sqlite", "end_delivery")
_SELECT_UNROUTED = sql("sqlite", "select_unrouted")
_SELECT_DUE_DELIVERIES = sql("sqlite", "select_due_deliveries")
_SELECT_SENT = sql("sqlite", "select_sent")
_SELECT_ALERTS = sql("sqlite", "select_alerts")
_SELECT_DELIVERIES = sql("sqlite", "select_deliveries")
_SELECT_CHANNEL_HEALTH = sql("sqlite", "select_channel_health")


def insert_alerts(connection: sqlite3.Connection, alerts: Iterable[Alert], now_ms: int) -> bool:
    """Write alerts; True when one of them was not there already."""
    written = [connection.execute(_INSERT_ALERT, alert_row(one, now_ms)).fetchall() for one in alerts]
    return any(written)


def outbox_step(connection: sqlite3.Connection, operation: OutboxStep, now_ms: int) -> OutboxWork | None:
    """See `AlertLedger.outbox_step`."""
    # How a message ended stays true whoever holds the lease now.
    for ended in operation.ended:
        _end(connection, ended, now_ms)
    lease = {"holder": operation.holder, "lease_until_ms": now_ms + operation.lease_ms, "now_ms": now_ms}
    followed = connection.execute(_TAKE_OUTBOX_LEASE, lease).fetchall()
    if not followed:
        return None
    _follow(connection, *followed[0], now_ms=now_ms)
    for routed in operation.routed:
        _route(connection, routed, now_ms)
    for claim in operation.claims:
        _claim(connection, claim, now_ms)
    bounds = {"now_ms": now_ms, "max": DUE_MAX}
    return OutboxWork(
        now_ms=now_ms,
        unrouted=unrouted_of(connection.execute(_SELECT_UNROUTED, {"max": DUE_MAX})),
        due=due_of(connection.execute(_SELECT_DUE_DELIVERIES, bounds)),
        sent_at_ms=sent_of(connection.execute(_SELECT_SENT, {"since_ms": now_ms - HOUR_MS})),
    )


def has_outbox_work(connection: sqlite3.Connection, holder: str, now_ms: int) -> bool:
    """See `AlertLedger.has_outbox_work`."""
    may_hold, has_work = connection.execute(_SELECT_OUTBOX_PULSE, {"now_ms": now_ms, "holder": holder}).fetchone()
    return bool(may_hold and has_work)


def read_alerts(connection: sqlite3.Connection, since_ms: int) -> list[StoredAlert]:
    """See `AlertLedger.alerts`."""
    since = {"since_ms": since_ms}
    alerts = [stored_alert(row) for row in connection.execute(_SELECT_ALERTS, since)]
    return with_deliveries(alerts, connection.execute(_SELECT_DELIVERIES, since))


def read_channel_health(connection: sqlite3.Connection, now_ms: int) -> list[ChannelHealth]:
    """See `AlertLedger.channel_health`."""
    since = {"since_ms": now_ms - GIVEN_UP_SHOWN_MS}
    return [ChannelHealth(*row) for row in connection.execute(_SELECT_CHANNEL_HEALTH, since)]


def _follow(connection: sqlite3.Connection, limits: int, overruns: int, change_no: int, *, now_ms: int) -> None:
    """End what is over, and take in what breakers did."""
    now = {"now_ms": now_ms}
    connection.execute(_RESOLVE_TURNED_ALERTS, now)
    revisions: dict[str, int] = dict(connection.execute(_SELECT_REVISIONS).fetchall())
    if revisions["limits"] != limits:
        connection.execute(_RESOLVE_GONE_ALERTS, now)
        connection.execute(_RESOLVE_RAISED_ALERTS, now)
    if revisions["overruns"] != overruns:
        connection.execute(_RESOLVE_CLEARED_ALERTS, now)
    changes = connection.execute(_SELECT_BREAKER_CHANGES, {"after_no": change_no, "max": DUE_MAX}).fetchall()
    for change in map(change_of, changes):
        change_no = change.number
        if change.after is Phase.CLOSED:
            ended = {"now_ms": now_ms, "about": change.breaker, "subject": change.subject}
            connection.execute(_RESOLVE_BREAKER_ALERTS, ended)
        alert = opened_alert(change)
        if alert is not None:
            insert_alerts(connection, [alert], now_ms)
    connection.execute(
        _NOTE_OUTBOX_FOLLOWED,
        {"limits": revisions["limits"], "overruns": revisions["overruns"], "breaker_change_no": change_no},
    )
    gone = [number for (number,) in connection.execute(_DELETE_OLD_ALERTS, {"before_ms": now_ms - ALERTS_KEPT_MS})]
    if gone:
        connection.execute(_DELETE_OLD_DELIVERIES, {"numbers": json.dumps(gone)})


def _route(connection: sqlite3.Connection, routed: Routed, now_ms: int) -> None:
    row = {"unrouted_bit": BIT[routed.phase], "details": routed.details, "number": routed.number}
    connection.execute(_UPDATE_ROUTED, row)
    for channel in routed.channels:
        key = {"number": routed.number, "channel": channel, "phase": routed.phase.value}
        connection.execute(_INSERT_DELIVERY, {**key, "now_ms": now_ms})


def _claim(connection: sqlite3.Connection, claim: Claim, now_ms: int) -> None:
    for key in claim.keys:
        row = {"number": key.number, "channel": key.channel, "phase": key.phase.value, "now_ms": now_ms}
        connection.execute(_CLAIM_DELIVERY, {**row, "next_try_at_ms": now_ms + claim.retry_in_ms})


def _end(connection: sqlite3.Connection, ended: Ended, now_ms: int) -> None:
    for place, key in enumerate(ended.keys):
        row = {
            "fate": ended.fate.value,
            "next_try_at_ms": now_ms + ended.retry_in_ms,
            "ended_at_ms": None if ended.fate is Fate.PENDING else now_ms,
            "error": ended.error,
            "is_lead": int(place == 0 and ended.fate is Fate.SENT),
            "number": key.number,
            "channel": key.channel,
            "phase": key.phase.value,
        }
        connection.execute(_END_DELIVERY, row)
