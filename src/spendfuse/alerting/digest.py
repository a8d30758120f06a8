"""The digest of a week or a month: where the money went against the time before, who was refused, what comes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from spendfuse.alerting.messages import Json, Wording, iso_time
from spendfuse.core.alerts import Alert, AlertKind, Severity, alert_id
from spendfuse.core.labels import subject_values
from spendfuse.core.limits import Limit
from spendfuse.core.money import format_usd
from spendfuse.core.windows import MS_PER_S, Calendar, CalendarUnit, Window, window_at
from spendfuse.ledger.store import Ledger, RefusalCount, SpendRow
from spendfuse.reports.forecast import Outlook, outlooks
from spendfuse.reports.spend import PERMILLE, decimals_for, rounded_costs, shares_permille

LARGE_PERMILLE = 600
"""A feature with more than this share of the spend is pointed out."""
FEATURES_SHOWN = 10
OTHERS_SHOWN = 5
NO_VALUE = "(none)"


class DigestPeriod(StrEnum):
    """What a digest is about."""

    WEEK = "week"
    MONTH = "month"

    def window(self, timezone: str, at_ms: int) -> Window:
        """The one that holds an instant."""
        return window_at(Calendar(CalendarUnit(self.value), timezone), at_ms)


@dataclass(frozen=True, slots=True)
class DigestSpan:
    """What a digest tells of, and what it compares that with; `is_over` when it is a whole period."""

    period: DigestPeriod
    from_ms: int
    until_ms: int
    before_from_ms: int
    before_until_ms: int
    is_over: bool


def last_span(period: DigestPeriod, timezone: str, now_ms: int) -> DigestSpan:
    """The last whole week or month, and the one before it."""
    until_ms = period.window(timezone, now_ms).starts_at_ms
    from_ms = period.window(timezone, until_ms - 1).starts_at_ms
    before_ms = period.window(timezone, from_ms - 1).starts_at_ms
    return DigestSpan(period, from_ms, until_ms, before_ms, from_ms, is_over=True)


def span_so_far(period: DigestPeriod, timezone: str, now_ms: int) -> DigestSpan:
    """The week or month that runs, and as much of the one before."""
    from_ms = period.window(timezone, now_ms).starts_at_ms
    before_ms = period.window(timezone, from_ms - 1).starts_at_ms
    return DigestSpan(period, from_ms, now_ms, before_ms, min(from_ms, before_ms + now_ms - from_ms), is_over=False)


@dataclass(frozen=True, slots=True)
class FeatureLine:
    """What a feature spent, and in the time before; nano-dollars. `rounded_cost` is as people are shown it."""

    name: str
    cost: int
    rounded_cost: int
    before: int
    share_permille: int


@dataclass(frozen=True, slots=True)
class Digest:
    """The figures of a digest; nano-dollars. Lists are the largest first and whole."""

    span: DigestSpan
    features: tuple[FeatureLine, ...]
    users: tuple[SpendRow, ...]
    refused: tuple[RefusalCount, ...]
    outlooks: tuple[Outlook, ...]
    now_ms: int
    total: int
    total_before: int

    @property
    def large(self) -> FeatureLine | None:
        """The feature that most of it went to."""
        return next((one for one in self.features if one.share_permille > LARGE_PERMILLE), None)


async def fetch_digest(ledger: Ledger, limits: Iterable[Limit], span: DigestSpan, now_ms: int) -> Digest:
    """The digest of what the ledger knows."""
    spent = await ledger.spend("feature", since_ms=span.from_ms, until_ms=span.until_ms)
    before = await ledger.spend("feature", since_ms=span.before_from_ms, until_ms=span.before_until_ms)
    users = await ledger.spend("user", since_ms=span.from_ms, until_ms=span.until_ms, top=OTHERS_SHOWN)
    return Digest(
        span=span,
        features=_features(spent, {row.value: row.cost for row in before}),
        users=tuple(one for one in users if one.cost > 0 and one.values == 1),
        refused=tuple(await ledger.refusals(span.from_ms, span.until_ms)),
        outlooks=tuple(await outlooks(ledger, [one for one in limits if not one.each], now_ms)),
        now_ms=now_ms,
        total=sum(row.cost for row in spent),
        total_before=sum(row.cost for row in before),
    )


def digest_alert(span: DigestSpan, timezone: str) -> Alert:
    """That a digest is due: once for each period, whichever process writes it."""
    title = f"Spend of the {span.period.value} {_days_text(span, timezone)}"
    facts = {
        "period": span.period.value,
        "from_ms": span.from_ms,
        "until_ms": span.until_ms,
        "before_from_ms": span.before_from_ms,
        "title": title,
    }
    number = alert_id(AlertKind.DIGEST, span.period.value, span.from_ms)
    # It is over as soon as it is said.
    return Alert(AlertKind.DIGEST, number, Severity.INFO, facts, ends_at_ms=span.until_ms)


def span_of(alert: Alert) -> DigestSpan:
    """The span that a digest's alert is about."""
    period, from_ms, until_ms, before_ms = (
        alert.facts[name] for name in ("period", "from_ms", "until_ms", "before_from_ms")
    )
    assert isinstance(from_ms, int) and isinstance(until_ms, int) and isinstance(before_ms, int)
    return DigestSpan(DigestPeriod(str(period)), from_ms, until_ms, before_ms, from_ms, is_over=True)


def digest_details(digest: Digest, wording: Wording) -> str:
    """What the message of a digest is made of."""
    return json.dumps({"lines": digest_lines(digest, wording), **digest_data(digest)}, ensure_ascii=False)


def digest_lines(digest: Digest, wording: Wording) -> list[str]:
    """The digest for people."""
    lines = [_total_line(digest, wording)]
    if digest.total > 0:
        lines += ["", *_feature_lines(digest)]
    if digest.large is not None:
        large = digest.large
        lines += ["", f"{large.name or NO_VALUE} alone is {_percent(large.share_permille)} of it: look there first."]
    if digest.users:
        users = [f"{one.value or NO_VALUE} {_usd(one.cost)}" for one in digest.users[:OTHERS_SHOWN]]
        lines += ["", f"Top users: {', '.join(users)}."]
    if digest.refused:
        lines += ["", f"Most refused: {', '.join(map(_refused_text, digest.refused[:OTHERS_SHOWN]))}."]
    forecast = [text for one in digest.outlooks if (text := _outlook_text(one, digest.now_ms, wording))]
    if forecast:
        lines += ["", *forecast]
    return lines


def digest_data(digest: Digest) -> dict[str, Json]:
    """The digest for programs."""
    span = digest.span
    return {
        "since": iso_time(span.from_ms),
        "until": iso_time(span.until_ms),
        "cost_usd": format_usd(digest.total),
        "cost_before_usd": format_usd(digest.total_before),
        "features": [
            {
                "name": one.name,
                "cost_usd": format_usd(one.cost),
                "cost_before_usd": format_usd(one.before),
                "share_percent": f"{one.share_permille // 10}.{one.share_permille % 10}",
            }
            for one in digest.features
        ],
        "users": [{"name": one.value, "cost_usd": format_usd(one.cost)} for one in digest.users[:OTHERS_SHOWN]],
        "refused": [
            {"code": one.code, "limit": one.limit_name, "feature": one.feature, "user": one.user, "count": one.count}
            for one in digest.refused[:OTHERS_SHOWN]
        ],
        "forecast": [
            {"limit": one.limit.name, "spent_at": None if at_ms is None else iso_time(at_ms)}
            for one in digest.outlooks
            for at_ms in (one.spent_at_ms(digest.now_ms),)
        ],
    }


def _features(spent: Sequence[SpendRow], before: dict[str, int]) -> tuple[FeatureLine, ...]:
    """Those that spent something in either span."""
    now = {row.value: row.cost for row in spent}
    names = sorted(name for name in now.keys() | before.keys() if now.get(name, 0) > 0 or before.get(name, 0) > 0)
    names.sort(key=lambda name: -now.get(name, 0))
    costs = [max(0, now.get(name, 0)) for name in names]
    rounded = rounded_costs(costs, decimals=decimals_for(sum(costs)))
    return tuple(
        FeatureLine(name, cost, shown, before.get(name, 0), share)
        for name, cost, shown, share in zip(names, costs, rounded, shares_permille(costs), strict=True)
    )


def _feature_lines(digest: Digest) -> list[str]:
    shown = digest.features[:FEATURES_SHOWN]
    rows = [("FEATURE", "COST", "SHARE", f"{digest.span.period.value.upper()} BEFORE", "CHANGE")]
    rows += [
        (
            one.name or NO_VALUE,
            _usd(one.cost),
            _percent(one.share_permille),
            _usd(one.before),
            _change(one.cost, one.before),
        )
        for one in shown
    ]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    beyond = digest.features[len(shown) :]
    if beyond:
        lines.append(f"and {len(beyond):,} others: {_usd(sum(one.cost for one in beyond))}")
    return lines


def _total_line(digest: Digest, wording: Wording) -> str:
    span = digest.span
    when = f"{span.period.value} {_days_text(span, wording.timezone)}"
    sofar = "" if span.is_over else " so far"
    compared = f"{span.period.value} before{'' if span.is_over else ' by then'}"
    if digest.total_before == 0:
        return f"{_usd(digest.total)} in the {when}{sofar}; nothing in the {compared}."
    change = _change(digest.total, digest.total_before)
    return f"{_usd(digest.total)} in the {when}{sofar}: {change} against the {compared} ({_usd(digest.total_before)})."


def _days_text(span: DigestSpan, timezone: str) -> str:
    zone = ZoneInfo(timezone)
    first = datetime.fromtimestamp(span.from_ms / MS_PER_S, UTC).astimezone(zone).date()
    last = (datetime.fromtimestamp(span.until_ms / MS_PER_S, UTC) - timedelta(milliseconds=1)).astimezone(zone).date()
    return f"{first} to {last}"


def _refused_text(one: RefusalCount) -> str:
    by = f" by {one.limit_name}" if one.limit_name else ""
    whose = ", ".join(f"{name} {value}" for name, value in (("feature", one.feature), ("user", one.user)) if value)
    return f"{one.count:,} x {one.code}{by}" + (f" ({whose})" if whose else "")


def _outlook_text(one: Outlook, now_ms: int, wording: Wording) -> str | None:
    at_ms = one.spent_at_ms(now_ms)
    unit, course = one.limit.unit, one.course
    spent = f"{unit.amount_text(course.settled)} of {unit.amount_text(course.amount)}"
    if at_ms is None:
        return f"{one.limit.name}: {spent} so far; at this rate it lasts until it resets."
    assert not subject_values(one.subject)
    return f"{one.limit.name}: {spent} so far; at this rate it is spent on {wording.time(at_ms)}."


def _usd(cost: int) -> str:
    (rounded,) = rounded_costs([cost], decimals=decimals_for(cost))
    return f"${format_usd(rounded)}"


def _percent(permille: int) -> str:
    return f"{permille // 10}.{permille % 10} %"


def _change(now: int, before: int) -> str:
    if before == 0:
        return "new" if now else "-"
    permille = (now - before) * PERMILLE // before
    return f"{'+' if permille >= 0 else '-'}{abs(permille) // 10}.{abs(permille) % 10} %"
