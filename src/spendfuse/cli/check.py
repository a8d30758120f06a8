"""`spendfuse check`: is this config right, and what does it say?"""

from datetime import UTC, datetime
from typing import Annotated, cast

import typer

from spendfuse.cli.configs import load_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import AcceptUnenforced, ConfigPath
from spendfuse.cli.output import MISUSED, Column, Json, fail, note, say, say_json, say_table
from spendfuse.cli.overruns import overrun_text, overruns_of
from spendfuse.cli.texts import counted
from spendfuse.config import Config, json_schema
from spendfuse.core.limits import Limit, Reject, RouteTo, Shadow
from spendfuse.reports.breakers import breaker_words

_SEVERAL = 2
"""Workers, of a gateway that may be served by more than one."""


def limit_words(limit: Limit) -> str:
    """A limit in words: `feature-week ($50.00 per week, each feature); only model=gpt-4o; shadow: never refuses`."""
    text = limit.describe()
    if limit.match:
        only = " and ".join(f"{name}={'|'.join(sorted(values))}" for name, values in limit.match.items())
        text += f"; only {only}"
    if limit.require:
        text += f"; refuses calls without {' or '.join(limit.each)}"
    match limit.on_exceed:
        case Reject():
            pass
        case Shadow():
            text += "; shadow: counts, never refuses"
        case RouteTo(model=model):
            text += f"; then routes to {model}"
    return text


def _say_models(config: Config) -> list[str]:
    """Show every model with the price of each of its targets; returns which models can't be served, and why.

    A target without a price is left out where the model has others.
    """
    # Prices take a while to load, which other commands need not.
    from spendfuse.cli.model_prices import PriceBook
    from spendfuse.pricing.describe import usd_per_million
    from spendfuse.pricing.targets import PricedTarget, Unpriced

    book = PriceBook(config)
    found = {name: book.of(name) for name in config.models}
    now = datetime.now(UTC)

    def rate(one: PricedTarget, name: str) -> str:
        picos: int | None = getattr(one.price(now).base, name)
        return "-" if picos is None else f"${usd_per_million(picos)}"

    def tokens(count: int | None) -> str:
        return "unknown" if count is None else f"{count:,}"

    columns: tuple[Column[tuple[str, PricedTarget]], ...] = (
        Column("model", "MODEL", None, lambda row: row[0]),
        Column("target", "TARGET", None, lambda row: f"{row[1].provider}/{row[1].model}"),
        Column("input", "INPUT/1M", None, lambda row: rate(row[1], "input"), is_number=True),
        Column("cache_read", "CACHED/1M", None, lambda row: rate(row[1], "cache_read"), is_number=True),
        Column("output", "OUTPUT/1M", None, lambda row: rate(row[1], "output"), is_number=True),
        Column("window", "WINDOW", None, lambda row: tokens(row[1].caps.context_window), is_number=True),
        Column("cap", "MAX OUTPUT", None, lambda row: tokens(row[1].caps.output_tokens_max), is_number=True),
        Column("source", "PRICE FROM", None, lambda row: row[1].source),
    )
    priced = [(name, one) for name, each in found.items() for one in each if isinstance(one, PricedTarget)]
    if priced:
        say()
        say_table(columns, priced)
    served = {name for name, _ in priced}
    errors: list[str] = []
    for name, each in found.items():
        unpriced = [one.message for one in each if isinstance(one, Unpriced)]
        if name not in served:
            errors += unpriced
        for message in unpriced if name in served else ():
            note(f"warning: models.{name} goes without one of its targets: {message}")
    return errors


def _check_channels(config: Config) -> None:
    """Show the channels of alerts, whose URLs are secrets.

    Raises:
        ConfigInvalid: one of them leads nowhere.
    """
    channels = config.alerting.channels
    if not channels:
        return
    from spendfuse.alerting.senders import check_channels

    check_channels(config.alerting)
    say(f"alerts    {counted(len(channels), 'channel')}: {', '.join(channels)}")


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def check(
        config: ConfigPath = None,
        accept_unenforced: AcceptUnenforced = False,
        schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a config instead.")] = False,
    ) -> None:
        """Validate a config and say what it means.

        Shows limits in words, models with their prices, and warnings; exits 2 when something is wrong.
        """
        if schema:
            say_json(cast("Json", json_schema()))
            return
        loaded = load_config(config, accept_unenforced=accept_unenforced)
        say(f"store     {loaded.store.where}")
        say(f"timezone  {loaded.timezone}")
        say(f"limits    {counted(len(loaded.limits), 'limit')}")
        for limit in loaded.limits:
            say(f"  {limit_words(limit)}")
        say(f"breakers  {counted(len(loaded.breakers), 'breaker')}")
        for breaker in loaded.breakers:
            say(f"  {breaker_words(breaker)}")
        _check_channels(loaded)
        errors = _say_models(loaded)
        for warning in loaded.warnings:
            note(f"warning: {warning}")
        for target, overrun in overruns_of(factories, loaded).items():
            note(f"warning: {target}: {overrun_text(overrun)}")
        for warning in factories.warnings(loaded, _SEVERAL):
            note(f"note: with several workers: {warning}")
        if errors:
            for error in errors[:-1]:
                note(f"error: {error}")
            fail(errors[-1], exit_code=MISUSED)
        say()
        say(f"{loaded.source} is valid")
