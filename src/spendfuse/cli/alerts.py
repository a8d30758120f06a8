"""`spendfuse alerts`: what people were told, and whether a channel can be reached."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from spendfuse.alerting.messages import Message, Wording, title_of, trial_message
from spendfuse.cli.configs import load_config, load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import MISUSED, Column, Format, Json, fail, say, say_rows
from spendfuse.cli.texts import did_you_mean, iso_time
from spendfuse.config.alerts import Channel
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.alerts import Delivery, Fate, StoredAlert
from spendfuse.reports.instants import InstantInvalid, instant_ms


@dataclass(frozen=True, slots=True)
class _Line:
    """One alert as it is listed."""

    stored: StoredAlert
    title: str


def _deliveries_text(deliveries: Sequence[Delivery]) -> str:
    return ", ".join(map(_delivery_text, deliveries)) or "no channel"


def _delivery_text(one: Delivery) -> str:
    over = "" if one.phase.value == "raised" else " (over)"
    match one.fate:
        case Fate.SENT:
            return f"{one.channel}{over}: sent"
        case Fate.FAILED:
            return f"{one.channel}{over}: given up: {one.error}"
        case Fate.PENDING:
            why = f": {one.error}" if one.error else ""
            return f"{one.channel}{over}: waits, {one.attempts} tries{why}"


def _delivery_record(one: Delivery) -> Json:
    return {
        "channel": one.channel,
        "event": one.phase.value,
        "state": one.fate.value,
        "attempts": one.attempts,
        "at": None if one.ended_at_ms is None else iso_time(one.ended_at_ms),
        "next_try_at": iso_time(one.next_try_at_ms) if one.fate is Fate.PENDING else None,
        "error": one.error or None,
    }


_COLUMNS: tuple[Column[_Line], ...] = (
    Column(
        "raised_at",
        "RAISED",
        lambda one: iso_time(one.stored.raised_at_ms),
        lambda one: iso_time(one.stored.raised_at_ms),
    ),
    Column(
        "resolved_at",
        "OVER",
        lambda one: None if one.stored.resolved_at_ms is None else iso_time(one.stored.resolved_at_ms),
        lambda one: one.stored.resolution or "-",
    ),
    Column("resolution", "", lambda one: one.stored.resolution or None, lambda one: one.stored.resolution),
    Column("kind", "KIND", lambda one: one.stored.alert.kind.value, lambda one: one.stored.alert.kind.value),
    Column(
        "severity", "SEVERITY", lambda one: one.stored.alert.severity.value, lambda one: one.stored.alert.severity.value
    ),
    Column("title", "ALERT", lambda one: one.title, lambda one: one.title),
    Column(
        "deliveries",
        "TOLD",
        lambda one: [_delivery_record(delivery) for delivery in one.stored.deliveries],
        lambda one: _deliveries_text(one.stored.deliveries),
    ),
    Column("alert_id", "", lambda one: one.stored.alert.alert_id, lambda one: one.stored.alert.alert_id),
)


def _send(factories: Factories, channel: Channel, message: Message) -> str | None:
    async def run() -> str | None:
        async with factories.open_sender(channel) as sender:
            return await sender.send(message)

    return asyncio.run(run())


def add_to(app: typer.Typer, factories: Factories) -> None:
    alerts = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="What people were told, and by which channel."
    )
    app.add_typer(alerts, name="alerts")

    @alerts.command("list")
    def list_alerts(
        since: Annotated[str, typer.Option(metavar="WHEN", help="7d, 12h, day, week, month, or a date.")] = "7d",
        config: ConfigPath = None,
        output: OutputFormat = Format.TABLE,
    ) -> None:
        """Alerts of the last days: what happened, whether it is over, and who was told."""
        loaded = load_store_config(config)
        try:
            since_ms = instant_ms(since, now_ms=time.time_ns() // NS_PER_MS, timezone=loaded.timezone)
        except InstantInvalid as error:
            fail(str(error), exit_code=MISUSED)
        wording = Wording(loaded.timezone)
        found = with_ledger(factories, loaded, lambda ledger: ledger.alerts(since_ms))
        lines = [_Line(one, title_of(one.alert, wording)) for one in found]
        say_rows(_COLUMNS, lines, output, empty=f"No alerts since {iso_time(since_ms)}")

    @alerts.command("test")
    def test_channel(
        channel: Annotated[str, typer.Argument(help="A channel of the config.", show_default=False)],
        config: ConfigPath = None,
    ) -> None:
        """Send a test message to a channel, and say what became of it: exit code 1 when it did not get through."""
        loaded = load_config(config)
        found = loaded.alerting.channels.get(channel)
        if found is None:
            hint = did_you_mean(channel, loaded.alerting.channels)
            fail(f'no channel of alerts is named "{channel}"{hint}', exit_code=MISUSED)
        error = _send(factories, found, trial_message(channel, time.time_ns() // NS_PER_MS))
        if error is not None:
            fail(f'the message to "{channel}" did not get through: {error}')
        say(f'the message to "{channel}" was taken')
