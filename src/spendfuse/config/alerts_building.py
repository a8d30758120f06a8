"""From the validated section `alerts` to the values of `alerts`."""

from collections.abc import Iterable
from types import MappingProxyType

from spendfuse.config.alerts import Alerting, AlertRoute, Channel
from spendfuse.config.problems import Path, Problems, closest
from spendfuse.config.schema import Document
from spendfuse.config.schema_alerts import ChannelSection, RouteSection
from spendfuse.core.alerts import AlertKind, Severity

MESSAGES_PER_HOUR = 30
"""So many a channel for people gets at most, unless config says otherwise; programs get them all."""
_ROUTED = frozenset(AlertKind) - {AlertKind.DIGEST}


def build_alerting(document: Document, problems: Problems) -> Alerting:
    """The section's values; without routes every channel gets every alert."""
    section = document.alerts
    channels = {name: _channel(name, one) for name, one in section.channels.items()}
    routes = tuple(
        _route(("alerts", "routes", place), one, document, problems) for place, one in enumerate(section.routes)
    )
    if not routes and "routes" not in section.model_fields_set and channels:
        routes = (AlertRoute(_ROUTED, tuple(channels)),)
    _check_known(("alerts", "digest", "weekly"), section.digest.weekly, channels, "a channel", problems)
    _check_known(("alerts", "digest", "monthly"), section.digest.monthly, channels, "a channel", problems)
    return Alerting(
        channels=MappingProxyType(channels),
        routes=routes,
        weekly=tuple(section.digest.weekly),
        monthly=tuple(section.digest.monthly),
        dashboard_url=section.dashboard_url,
    )


def alert_warnings(document: Document) -> list[str]:
    """What was asked for and nobody would be told."""
    if document.alerts.channels:
        return []
    return [
        f"limits.{name}.alert_at: no channel of alerts is told; `spendfuse alerts list` shows them"
        for name, section in document.limits.items()
        if section.alert_at and "alert_at" in section.model_fields_set
    ]


def _channel(name: str, section: ChannelSection) -> Channel:
    url = section.url or section.webhook
    assert url is not None, "a valid section has one of them"
    is_capped = section.webhook is None or "messages_per_hour" in section.model_fields_set
    return Channel(
        name=name,
        url=url,
        signs_with=section.secret,
        quiet_hours=section.quiet_hours,
        messages_per_hour=(section.messages_per_hour or MESSAGES_PER_HOUR) if is_capped else None,
    )


def _route(path: Path, section: RouteSection, document: Document, problems: Problems) -> AlertRoute:
    _check_known((*path, "to"), section.to, document.alerts.channels, "a channel", problems)
    _check_known((*path, "limit"), section.limit, document.limits, "a limit", problems)
    return AlertRoute(
        kinds=frozenset(map(AlertKind, section.on)) or _ROUTED,
        channels=tuple(dict.fromkeys(section.to)),
        severity=Severity(section.severity),
        limit_names=frozenset(section.limit),
    )


def _check_known(path: Path, names: Iterable[str], known: Iterable[str], what: str, problems: Problems) -> None:
    for place, name in enumerate(names):
        if name not in known:
            where = (*path, place)
            problems.add(where, f"{problems.got(where, name)}, expected {what} of this config{closest(name, known)}")
