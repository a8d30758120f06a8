"""Alerts in words: what happened, how much of what, who did it, when it is over, what to do. Pure.

A message is made of what is stored alone, so every try says the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never, cast
from zoneinfo import ZoneInfo

from spendfuse.core.alerts import Alert, AlertKind, Facts, Phase, Severity
from spendfuse.core.limits import Unit
from spendfuse.core.money import format_usd
from spendfuse.core.thresholds import WHOLE
from spendfuse.core.windows import MS_PER_S
from spendfuse.ledger.alerts import Resolution, StoredAlert

Json = str | int | None | Sequence["Json"] | Mapping[str, "Json"]
LINES_SHOWN = 20
"""So many alerts a summary names."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. `alert_id` is the same for an alert and for its end; `data` is for programs."""

    alert_id: str
    phase: Phase
    severity: Severity
    title: str
    lines: tuple[str, ...]
    data: Mapping[str, Json]

    @property
    def text(self) -> str:
        """All of it but the title, as plain text."""
        return "\n".join(self.lines)


@dataclass(frozen=True, slots=True)
class Wording:
    """What messages are told in: the config's time zone, and the dashboard they lead to."""

    timezone: str = "UTC"
    dashboard_url: str | None = None

    def time(self, ms: object) -> str:
        """An instant for people: `Sat 2026-11-21 16:40 UTC`."""
        assert isinstance(ms, int)
        return datetime.fromtimestamp(ms / MS_PER_S, ZoneInfo(self.timezone)).strftime("%a %Y-%m-%d %H:%M %Z")


def message_of(stored: StoredAlert, phase: Phase, wording: Wording) -> Message:
    """An alert, or its end, as a message."""
    alert = stored.alert
    details = cast("dict[str, Json]", json.loads(stored.details)) if stored.details else {}
    title, lines = _words(alert, details, wording)
    severity = alert.severity
    if phase is Phase.RESOLVED:
        severity = Severity.INFO
        title, lines = f"Over: {title}", [_why_over(stored, wording)]
    if wording.dashboard_url is not None:
        lines.append(f"Dashboard: {wording.dashboard_url}")
    return Message(alert.alert_id, phase, severity, title, tuple(lines), _data(stored, phase, title, lines, details))


def summary_of(several: Sequence[tuple[StoredAlert, Phase]], wording: Wording) -> Message:
    """Several alerts, and ends of alerts, as one message: what a channel's cap or quiet hours held back."""
    each = [message_of(stored, phase, wording) for stored, phase in several]
    title = f"{len(each):,} more alerts"
    lines = [one.title for one in each[:LINES_SHOWN]]
    if len(each) > LINES_SHOWN:
        lines.append(f"and {len(each) - LINES_SHOWN:,} more: `spendfuse alerts list` has them all")
    order = list(Severity)
    severity = max((one.severity for one in each), key=order.index)
    data: dict[str, Json] = {"event": "summary", "title": title, "alerts": [one.data for one in each]}
    return Message(f"summary-{each[0].alert_id}", Phase.RAISED, severity, title, tuple(lines), data)


def trial_message(channel: str, now_ms: int) -> Message:
    """What `spendfuse alerts test` sends."""
    title = "Spendfuse can reach this channel"
    lines = (f'A test of the channel "{channel}": alerts sent to it arrive here. Nothing is wrong.',)
    at = iso_time(now_ms)
    data: dict[str, Json] = {"event": "test", "title": title, "text": lines[0], "channel": channel, "raised_at": at}
    return Message(f"test-{now_ms}", Phase.RAISED, Severity.INFO, title, lines, data)


def iso_time(ms: int) -> str:
    """An instant in UTC, for programs."""
    return datetime.fromtimestamp(ms / MS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def title_of(alert: Alert, wording: Wording) -> str:
    """An alert in a line."""
    return _words(alert, {}, wording)[0]


def _words(alert: Alert, details: Mapping[str, Json], wording: Wording) -> tuple[str, list[str]]:
    facts = alert.facts
    match alert.kind:
        case AlertKind.THRESHOLD:
            return _threshold(alert, details, wording)
        case AlertKind.FORECAST:
            return _forecast(alert, details, wording)
        case AlertKind.BREAKER | AlertKind.DRIFT:
            return _breaker(facts, details, wording)
        case AlertKind.OVERRUN:
            charged, quoted = (f"${format_usd(_number(facts[name]))}" for name in ("charged", "quoted"))
            return f"{facts['target']} charged more than it was quoted at", [
                f"A call was charged {charged} where at most {quoted} was expected ({wording.time(facts['at_ms'])}).",
                f"Later quotes of it are multiplied by {_number(facts['percent']) / 100:g}, so limits still hold.",
                "Look at its prices and bounds; when they are right again: "
                f"`spendfuse prices {facts['target']} --clear-overrun`.",
            ]
        case AlertKind.UNPRICED:
            return f'No price is known for what was asked of model "{facts["model"]}"', [
                str(facts["why"]),
                "Such calls are refused. Price it under `prices` of its provider or model in the config.",
            ]
        case AlertKind.STORE_DOWN:
            return "The store was away, and calls were refused", [
                f"From {wording.time(facts['from_ms'])} until {wording.time(facts['until_ms'])}: {facts['why']}.",
                "It is back. What was spent meanwhile is written down; nothing was served beyond a limit.",
            ]
        case AlertKind.DIGEST:
            return str(facts["title"]), [str(line) for line in cast("Sequence[Json]", details.get("lines", ()))]
        case _:
            assert_never(alert.kind)


def _breaker(facts: Facts, details: Mapping[str, Json], wording: Wording) -> tuple[str, list[str]]:
    is_forced = facts["phase"] == "forced_open"
    refuses = is_forced or details.get("refuses", 1)
    opened = "is kept open by hand" if is_forced else "is open" if refuses else "has tripped"
    after = (
        "Calls that it covers are refused, or go to the next target of their model, until it closes."
        if refuses
        else "It refuses nothing: it was made to tell of this only."
    )
    return f"Breaker {_named(facts['breaker'], facts['subject'])} {opened}", [
        f"Why: {facts['why']} (by {facts['who']}, {wording.time(facts['at_ms'])}).",
        after,
        "To look: `spendfuse breaker list`; to close it by hand: "
        f"`spendfuse breaker close {facts['breaker']} --why …`.",
    ]


def _threshold(alert: Alert, details: Mapping[str, Json], wording: Wording) -> tuple[str, list[str]]:
    facts, share = alert.facts, _number(alert.facts["share"])
    name = _named(facts["limit"], facts["subject"])
    amount = _amount(facts, "amount")
    if share >= WHOLE:
        title = f"{name} is spent: {_amount(facts, 'settled')} of {amount}"
        todo = "Calls under it are refused"
    else:
        title = f"{name}: {share} % of {amount} is spent"
        todo = "Calls under it are refused once it is spent"
    if facts["is_shadow"]:
        todo = "It only watches, and refuses nothing"
    return title, [_so_far(facts), *_tops(details), _reset(facts, wording), f"{todo}. {_raise_it(alert)}"]


def _forecast(alert: Alert, details: Mapping[str, Json], wording: Wording) -> tuple[str, list[str]]:
    facts = alert.facts
    at = wording.time(facts["spent_at_ms"])
    title = f"{_named(facts['limit'], facts['subject'])}: at this rate it is spent on {at}"
    return title, [_so_far(facts), *_tops(details), _reset(facts, wording), _raise_it(alert)]


def _so_far(facts: Facts) -> str:
    amount, settled = _number(facts["amount"]), _number(facts["settled"])
    unit = Unit(str(facts["unit"]))
    share = f" ({settled * 1000 // amount / 10:g} %)" if amount else ""
    left = unit.amount_text(max(0, amount - settled))
    return f"{unit.amount_text(settled)} of {unit.amount_text(amount)} per {facts['per']} settled{share}, {left} left."


def _reset(facts: Facts, wording: Wording) -> str:
    if facts["ends_at_ms"] is None:
        return "It never resets."
    return f"It resets on {wording.time(facts['ends_at_ms'])}."


def _raise_it(alert: Alert) -> str:
    values = cast("list[str]", json.loads(alert.subject))
    whose = f" --for {','.join(values)}" if values else ""
    how = f"spendfuse limits set {alert.facts['limit']}{whose} AMOUNT"
    return f"To raise it: `{how}`; to see who spends: `spendfuse report`."


def _tops(details: Mapping[str, Json]) -> list[str]:
    lines: list[str] = []
    for key, title in (("top_features", "Top features"), ("top_users", "Top users")):
        tops = cast("Sequence[Mapping[str, Json]]", details.get(key, ()))
        if tops:
            named = [f"{one['name'] or '(none)'} {one['text']}" for one in tops]
            lines.append(f"{title}: {', '.join(named)}.")
    return lines


def _why_over(stored: StoredAlert, wording: Wording) -> str:
    assert stored.resolved_at_ms is not None
    why = {
        Resolution.TURNED: "its window turned",
        Resolution.RAISED: "the amount was raised",
        Resolution.GONE: "the limit is not in force any more",
        Resolution.CLEARED: "the quotes of the target are trusted again",
        Resolution.CLOSED: "the breaker closed",
    }[Resolution(stored.resolution)]
    return f"{why[0].upper()}{why[1:]} ({wording.time(stored.resolved_at_ms)})."


def _data(
    stored: StoredAlert, phase: Phase, title: str, lines: Sequence[str], details: Mapping[str, Json]
) -> dict[str, Json]:
    alert, over = stored.alert, stored.resolved_at_ms
    data: dict[str, Json] = {
        "event": phase.value,
        "alert_id": alert.alert_id,
        "kind": alert.kind.value,
        "severity": alert.severity.value,
        "title": title,
        "text": "\n".join(lines),
        "raised_at": iso_time(stored.raised_at_ms),
        "resolved_at": None if over is None or phase is Phase.RAISED else iso_time(over),
        "resolution": stored.resolution if phase is Phase.RESOLVED else None,
    }
    further = {name: value for name, value in details.items() if name != "lines"}
    return data | {name: _for_programs(alert, name) for name in alert.facts} | further


def _for_programs(alert: Alert, name: str) -> Json:
    """Money as a decimal string of dollars, times as they are."""
    value = alert.facts[name]
    is_money = name in ("charged", "quoted") or (
        name in ("amount", "settled") and alert.facts.get("unit") == Unit.USD.value
    )
    return format_usd(value) if is_money and isinstance(value, int) else value


def _named(name: object, subject: object) -> str:
    return f"{name} ({subject})" if subject else str(name)


def _amount(facts: Facts, name: str) -> str:
    return Unit(str(facts["unit"])).amount_text(_number(facts[name]))


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
