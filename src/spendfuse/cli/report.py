"""`spendfuse report`: where the money went, by any label, and the digest of a week or a month."""

import time
from typing import Annotated

import typer

from spendfuse.alerting.digest import DigestPeriod, digest_data, digest_lines, fetch_digest, last_span, span_so_far
from spendfuse.alerting.messages import Wording
from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import MISUSED, Column, Format, Json, fail, note, records, say, say_csv, say_json, say_table
from spendfuse.cli.texts import NO_VALUE, counted, iso_time, percent
from spendfuse.config import Config
from spendfuse.core.labels import LabelInvalid, label_name
from spendfuse.core.money import NANOS_PER_USD, format_usd
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.store import Ledger
from spendfuse.reports.instants import InstantInvalid, instant_ms
from spendfuse.reports.spend import SpendLine, SpendReport, spend_report

LINES_MAX = 100
"""Nobody reads more lines of a table; a label can have a million values."""


def say_report(report: SpendReport) -> None:
    """The report as people read it: rounded, adding up, with its total."""
    say_table(_columns(report), report.all_lines, totals=[report.total])


async def fetch_report(
    ledger: Ledger, label: str, *, since_ms: int, until_ms: int | None = None, top: int | None = None
) -> SpendReport:
    """The report of what the ledger knows of a span of time."""
    return spend_report(label, await ledger.spend(label, since_ms=since_ms, until_ms=until_ms, top=top), top=top)


def _columns(report: SpendReport) -> tuple[Column[SpendLine], ...]:
    def title_of(line: SpendLine) -> str:
        if line is report.total:
            return "total"
        return f"({line.values} others)" if line is report.rest else line.value or NO_VALUE

    def dollars(line: SpendLine) -> str:
        whole, fraction = divmod(line.rounded_cost, NANOS_PER_USD)
        return f"${whole:,}.{fraction:09d}"[: report.decimals - 9 or None]

    def estimated(line: SpendLine) -> str:
        return percent(line.estimated_cost * 1000 // line.cost) if line.cost and line.estimated_cost else "-"

    def share(line: SpendLine) -> Json:
        return f"{line.share_permille // 10}.{line.share_permille % 10}"

    return (
        Column("value", report.label.upper(), lambda one: one.value, title_of),
        Column("calls", "CALLS", lambda one: one.calls, lambda one: f"{one.calls:,}", is_number=True),
        Column(
            "input_tokens", "INPUT", lambda one: one.input_tokens, lambda one: f"{one.input_tokens:,}", is_number=True
        ),
        Column(
            "output_tokens",
            "OUTPUT",
            lambda one: one.output_tokens,
            lambda one: f"{one.output_tokens:,}",
            is_number=True,
        ),
        Column("cost_usd", "COST", lambda one: format_usd(one.cost), dollars, is_number=True),
        Column("share_percent", "SHARE", share, lambda one: percent(one.share_permille), is_number=True),
        Column("estimated_usd", "ESTIMATED", lambda one: format_usd(one.estimated_cost), estimated, is_number=True),
    )


def _say_report_json(report: SpendReport, *, since_ms: int, until_ms: int | None) -> None:
    columns = _columns(report)
    rest, total = (
        [{**record, "values": line.values} for line in lines for record in records(columns[1:], [line])]
        for lines in ((report.rest,) if report.rest else (), (report.total,))
    )
    say_json(
        {
            "by": report.label,
            "since": iso_time(since_ms),
            "until": None if until_ms is None else iso_time(until_ms),
            "lines": records(columns, report.lines),
            "rest": rest[0] if rest else None,
            "total": total[0],
        }
    )


def _since_until(loaded: Config, since: str, until: str | None) -> tuple[int, int | None]:
    now_ms = time.time_ns() // NS_PER_MS
    try:
        since_ms = instant_ms(since, now_ms=now_ms, timezone=loaded.timezone)
        until_ms = None if until is None else instant_ms(until, now_ms=now_ms, timezone=loaded.timezone)
    except InstantInvalid as error:
        fail(str(error), exit_code=MISUSED)
    if until_ms is not None and until_ms <= since_ms:
        fail("--until must be after --since", exit_code=MISUSED)
    return since_ms, until_ms


def add_to(app: typer.Typer, factories: Factories) -> None:
    group = typer.Typer(rich_markup_mode=None)
    app.add_typer(group, name="report", invoke_without_command=True)
    _add_report(group, factories)
    _add_digest(group, factories)


def _add_report(group: typer.Typer, factories: Factories) -> None:
    @group.callback()
    def report(
        context: typer.Context,
        by: Annotated[
            str | None, typer.Option("--by", metavar="LABEL", help="user, feature, model, key, or any label.")
        ] = None,
        since: Annotated[
            str, typer.Option(metavar="WHEN", help="7d, 12h, day, week, month, or a date such as 2026-11-01.")
        ] = "month",
        until: Annotated[str | None, typer.Option(metavar="WHEN", help="As --since; default: now.")] = None,
        top: Annotated[
            int | None,
            typer.Option(min=1, help="So many lines, and one for all others; default: 100 in a table, else all."),
        ] = None,
        config: ConfigPath = None,
        output: OutputFormat = Format.TABLE,
    ) -> None:
        """Where the money went, by one label.

        Calls, tokens, cost and share of each value, and which part of the cost is an estimate.
        """
        if context.invoked_subcommand is not None:
            return
        if by is None:
            fail("--by is missing: the label to report by, such as feature", exit_code=MISUSED)
        loaded = load_store_config(config)
        try:
            label = label_name(by)
        except LabelInvalid as error:
            fail(str(error), exit_code=MISUSED)
        since_ms, until_ms = _since_until(loaded, since, until)
        if top is None and output is Format.TABLE:
            top = LINES_MAX
        made = with_ledger(
            factories,
            loaded,
            lambda ledger: fetch_report(ledger, label, since_ms=since_ms, until_ms=until_ms, top=top),
        )
        match output:
            case Format.JSON:
                _say_report_json(made, since_ms=since_ms, until_ms=until_ms)
            case Format.CSV:
                say_csv(_columns(made), made.lines)
            case Format.TABLE:
                say_report(made)
                upto = "" if until_ms is None else f" until {iso_time(until_ms)}"
                note(f"{counted(made.total.values, 'value')} of {label} since {iso_time(since_ms)}{upto}")


def _add_digest(group: typer.Typer, factories: Factories) -> None:
    @group.command()
    def digest(
        month: Annotated[bool, typer.Option("--month/--week", help="Of a month, rather than of a week.")] = False,
        last: Annotated[
            bool, typer.Option("--last", help="Of the last whole one, as it is sent; else of this one so far.")
        ] = False,
        config: ConfigPath = None,
        as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    ) -> None:
        """What is sent as the digest: spend by feature against the time before, and what comes.

        Shares, the feature that most went to, top users, who was refused most, and when limits will be spent.
        """
        loaded = load_store_config(config)
        now_ms = time.time_ns() // NS_PER_MS
        period = DigestPeriod.MONTH if month else DigestPeriod.WEEK
        span = (last_span if last else span_so_far)(period, loaded.timezone, now_ms)
        made = with_ledger(factories, loaded, lambda ledger: fetch_digest(ledger, loaded.limits, span, now_ms))
        if as_json:
            say_json(digest_data(made))
            return
        for line in digest_lines(made, Wording(loaded.timezone)):
            say(line)
