"""A drill's findings as people and programs read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from spendfuse.cli.output import Column, Format, Json, note, records, say, say_csv, say_json, say_table
from spendfuse.core.limits import Limit
from spendfuse.core.money import NANOS_PER_USD, format_usd
from spendfuse.drill.advice import advice
from spendfuse.drill.losses import MaxLoss, exceeds
from spendfuse.drill.offers import Offers
from spendfuse.drill.rehearsal import Finding
from spendfuse.drill.tally import Refusal

_CENT = NANOS_PER_USD // 100
_S_PER_MINUTE, _S_PER_HOUR = 60, 3_600


@dataclass(frozen=True, slots=True)
class DrillReport:
    """All findings, and what they are judged by."""

    findings: Sequence[Finding]
    limits: Sequence[Limit]
    budget: Limit | None
    max_loss: MaxLoss
    offers: Offers
    begins_at: datetime
    seed: int

    @property
    def allowed(self) -> int | None:
        """See `MaxLoss.allowed`."""
        return self.max_loss.allowed(self.budget)

    @property
    def failed(self) -> list[Finding]:
        """The scenarios that got past the greatest loss."""
        return [one for one in self.findings if exceeds(one.billed, self.allowed)]

    def advice(self, finding: Finding) -> str | None:
        """What to add to the limits."""
        return advice(finding, self.limits)


def say_drill(report: DrillReport, output: Format) -> None:
    """Say it in the asked format; what a scenario failed by goes to standard error."""
    match output:
        case Format.TABLE:
            _say_tables(report)
        case Format.JSON:
            say_json(_document(report))
        case Format.CSV:
            say_csv(_columns(report), report.findings)
    for finding in report.failed:
        note(f"error: {finding.scenario.name} cost ${_dollars(finding.billed)}, {_allowance(report)}")


def _say_tables(report: DrillReport) -> None:
    say_table(_columns(report), report.findings)
    lines = [(one.scenario.name, report.advice(one)) for one in report.findings]
    advised = [(name, line) for name, line in lines if line is not None]
    if advised:
        say()
    for name, line in advised:
        say(f"{name}: {line}")
    dearest = ", ".join(one.model for one in report.offers.dearest)
    note(
        f"from {report.begins_at:%Y-%m-%d %H:%M %Z} in virtual time, seed {report.seed}; "
        f"calls of {report.offers.ordinary.model}, attack on {dearest}"
    )


def _allowance(report: DrillReport) -> str:
    if report.allowed is None:
        return "and no limit in money over all calls bounds it"
    share = f", {report.max_loss.text} of {report.budget.describe()}" if report.max_loss.share and report.budget else ""
    return f"more than ${_dollars(report.allowed)}{share}"


def _columns(report: DrillReport) -> tuple[Column[Finding], ...]:
    return (
        Column("scenario", "SCENARIO", lambda one: one.scenario.name, lambda one: one.scenario.name),
        Column("hours", "", lambda one: f"{one.span_s / _S_PER_HOUR:g}", str),
        Column("attempts", "ATTEMPTS", lambda one: one.attempts, lambda one: f"{one.attempts:,}", is_number=True),
        _money("attempted_usd", "WORTH", lambda one: one.attempted),
        Column("got_through", "GOT THROUGH", lambda one: one.reached, lambda one: f"{one.reached:,}", is_number=True),
        _money("billed_usd", "COST", lambda one: one.billed),
        Column("charged_usd", "", lambda one: format_usd(one.charged), str),
        Column("stopped", "STOPPED", lambda one: _stop_json(one.stopped), _stop_text),
        Column("first_refusal", "", lambda one: _stop_json(one.first_refusal), str),
        Column("refusals", "", lambda one: dict(sorted(one.refusals.items())), str),
        Column("alerts", "ALERTS", _alerts_json, lambda one: f"{len(one.alerts):,}", is_number=True),
        Column(
            "calls_without",
            "",
            lambda one: one.unprotected_calls,
            str,
        ),
        _money("without_usd", "WITHOUT SPENDFUSE", lambda one: one.unprotected),
        Column("exceeds_max_loss", "", lambda one: one in report.failed, str),
        Column("advice", "", report.advice, str),
    )


def _money(name: str, title: str, amount: Callable[[Finding], int]) -> Column[Finding]:
    return Column(
        name,
        title,
        lambda one: format_usd(amount(one)),
        lambda one: f"${_dollars(amount(one))}",
        is_number=True,
    )


def _document(report: DrillReport) -> Json:
    budget, allowed, offers = report.budget, report.allowed, report.offers
    return {
        "seed": report.seed,
        "begins_at": report.begins_at.isoformat(),
        "model": offers.ordinary.model,
        "models_attacked": [one.model for one in offers.dearest],
        "budget": None if budget is None else {"limit": budget.name, "usd": format_usd(budget.amount)},
        "max_loss": report.max_loss.text,
        "max_loss_usd": None if allowed is None else format_usd(allowed),
        "passed": not report.failed,
        "scenarios": records(_columns(report), report.findings),
    }


def _alerts_json(finding: Finding) -> Json:
    return [
        {"after_s": round(one.after_s), "kind": one.kind, "severity": one.severity, "title": one.title}
        for one in finding.alerts
    ]


def _stop_json(refusal: Refusal | None) -> Json:
    if refusal is None:
        return None
    return {"after_s": round(refusal.after_s), "by": refusal.by}


def _stop_text(finding: Finding) -> str:
    if finding.stopped is not None:
        return f"after {_duration(finding.stopped.after_s)} by {finding.stopped.by}"
    if finding.first_refusal is not None:
        return f"no, but slowed down by {', '.join(sorted(finding.refusals))}"
    return "no, nothing was refused"


def _duration(seconds: float) -> str:
    """For people: `3h 47m`, `29m 53s`, `4s`."""
    whole = round(seconds)
    hours, minutes = whole // _S_PER_HOUR, whole // _S_PER_MINUTE % _S_PER_MINUTE
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {whole % _S_PER_MINUTE:02}s" if minutes else f"{whole}s"


def _dollars(nanos: int) -> str:
    """For people: to the cent, rounded half up."""
    cents = (nanos + _CENT // 2) // _CENT
    return f"{cents // 100:,}.{cents % 100:02}"
