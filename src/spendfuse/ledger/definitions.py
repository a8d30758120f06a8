"""Limits as they are stored: text in the store and back, so that a process without a config knows them too."""

import json
from dataclasses import dataclass
from typing import Any, assert_never

from spendfuse.core.limits import Limit, OnExceed, Reject, RouteTo, Shadow, Unit
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Period, Span


def limit_text(limit: Limit) -> str:
    """A limit as JSON with every field that config can set."""
    return json.dumps(
        {
            "name": limit.name,
            "unit": limit.unit.value,
            "amount": limit.amount,
            "period": _period_fields(limit.period),
            "each": limit.each,
            "match": {name: sorted(values) for name, values in sorted(limit.match.items())},
            "require": limit.require,
            "on_exceed": _on_exceed_fields(limit.on_exceed),
            "fit": limit.fit,
            "estimate": limit.estimate,
            "burst": limit.burst,
            "min_output_tokens": limit.min_output_tokens,
            "alert_at": limit.alert_at,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def limit_from_text(text: str) -> Limit:
    """The limit that `limit_text` wrote."""
    fields = json.loads(text)
    return Limit(
        name=fields["name"],
        unit=Unit(fields["unit"]),
        amount=fields["amount"],
        period=_period(fields["period"]),
        each=tuple(fields["each"]),
        match={name: frozenset(values) for name, values in fields["match"].items()},
        require=fields["require"],
        on_exceed=_on_exceed(fields["on_exceed"]),
        fit=fields["fit"],
        estimate=fields["estimate"],
        burst=fields["burst"],
        min_output_tokens=fields["min_output_tokens"],
        alert_at=tuple(fields["alert_at"]),
    )


@dataclass(frozen=True, slots=True)
class StoredLimit:
    """A limit in force, with its number in the store and the instant since which every call has counted under it."""

    limit_id: int
    limit: Limit
    active_since_ms: int


@dataclass(frozen=True, slots=True)
class Override:
    """An amount that beats the config's for one subject, until an instant of the store's clock or until it is reset."""

    amount: int
    until_ms: int | None = None


def _period_fields(period: Period) -> dict[str, str | int]:
    match period:
        case Calendar():
            return {"calendar": period.unit.value, "timezone": period.timezone}
        case Span():
            return {"span_ms": period.ms}
        case Lifetime():
            return {}
        case _:
            assert_never(period)


def _period(fields: dict[str, Any]) -> Period:
    if "calendar" in fields:
        return Calendar(CalendarUnit(fields["calendar"]), fields["timezone"])
    return Span(fields["span_ms"]) if "span_ms" in fields else Lifetime()


def _on_exceed_fields(on_exceed: OnExceed) -> str | dict[str, str]:
    match on_exceed:
        case Reject():
            return "reject"
        case Shadow():
            return "shadow"
        case RouteTo():
            return {"route_to": on_exceed.model}
        case _:
            assert_never(on_exceed)


def _on_exceed(fields: str | dict[str, str]) -> OnExceed:
    if isinstance(fields, dict):
        return RouteTo(fields["route_to"])
    return Shadow() if fields == "shadow" else Reject()
