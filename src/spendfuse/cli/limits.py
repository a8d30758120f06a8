"""`spendfuse limits`: what every limit has left, and amounts that override the config's for one subject."""

import csv
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import MISUSED, Column, Format, Json, fail, say, say_rows
from spendfuse.cli.texts import did_you_mean, iso_time, labels_text
from spendfuse.config import Config
from spendfuse.core.errors import LimitUnknown
from spendfuse.core.labels import label_value, subject_of, subject_values
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import format_usd, parse_exact, parse_usd
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.store import BalanceLine, Ledger
from spendfuse.reports.instants import end_ms

LimitName = Annotated[str, typer.Argument(help="The limit.", show_default=False)]
Subject = Annotated[
    str | None,
    typer.Option("--for", metavar="VALUES", help="Whose balance: values in the order of the limit's `each`."),
]
_NEGATIVE = re.compile(r"-[$.0-9]")


class _AmountCommand(TyperCommand):
    """Takes `-5` for an amount, which is refused as one, not for an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = any(_NEGATIVE.match(one) for one in args)
        return super().parse_args(ctx, args)


def _amount(line: BalanceLine, amount: int) -> Json:
    return format_usd(amount) if line.unit == Unit.USD else amount


def _text(line: BalanceLine, amount: int) -> str:
    return f"${format_usd(amount)}" if line.unit == Unit.USD else f"{amount:,}"


def _left(line: BalanceLine) -> int:
    return max(0, line.amount - line.settled - line.reserved)


def _subject(line: BalanceLine) -> list[tuple[str, str]]:
    return list(zip(line.each, subject_values(line.subject), strict=True))


def _state(line: BalanceLine) -> str:
    words = {
        "shadow": not line.is_enforced,
        "spent": line.is_enforced and line.settled >= line.amount,
        _overridden(line): line.is_overridden,
    }
    return " ".join(word for word, holds in words.items() if holds)


def _overridden(line: BalanceLine) -> str:
    until = _overridden_until(line)
    return "overridden" if until is None else f"overridden until {until}"


def _overridden_until(line: BalanceLine) -> str | None:
    return None if line.override_ends_at_ms is None else iso_time(line.override_ends_at_ms)


def _resets(line: BalanceLine) -> str | None:
    return None if line.resets_at_ms is None else iso_time(line.resets_at_ms)


_COLUMNS: tuple[Column[BalanceLine], ...] = (
    Column("limit", "LIMIT", lambda one: one.limit_name, lambda one: one.limit_name),
    Column(
        "subject", "SUBJECT", lambda one: dict(_subject(one)), lambda one: labels_text(_subject(one)) or "all calls"
    ),
    Column("unit", "UNIT", lambda one: one.unit, lambda one: one.unit),
    Column("period", "PER", lambda one: one.period, lambda one: one.period),
    Column(
        "amount", "AMOUNT", lambda one: _amount(one, one.amount), lambda one: _text(one, one.amount), is_number=True
    ),
    Column(
        "settled", "SETTLED", lambda one: _amount(one, one.settled), lambda one: _text(one, one.settled), is_number=True
    ),
    Column(
        "reserved",
        "RESERVED",
        lambda one: _amount(one, one.reserved),
        lambda one: _text(one, one.reserved),
        is_number=True,
    ),
    Column("left", "LEFT", lambda one: _amount(one, _left(one)), lambda one: _text(one, _left(one)), is_number=True),
    Column("resets_at", "RESETS", _resets, lambda one: _resets(one) or "-"),
    Column("is_enforced", "", lambda one: one.is_enforced, lambda one: ""),
    Column("is_overridden", "STATE", lambda one: one.is_overridden, _state),
    Column("overridden_until", "", _overridden_until, lambda one: ""),
)


def parse_amount(unit: Unit, text: str) -> int:
    """An amount as a limit's unit stores it: dollars as nano-dollars, all else whole.

    Raises:
        AmountInvalid: not a number, negative, or finer than the unit.
    """
    if unit is Unit.USD:
        return parse_usd(text.replace("$", "", 1) if text.removeprefix("-").startswith("$") else text)
    return parse_exact(text, scale=1, what=f"an amount of {unit.value.replace('_', ' ')}")


def parse_subject(limit: Limit, text: str | None) -> str:
    """The stored form of the subject that comma-separated values name, in the order of the limit's `each`.

    Raises:
        ValueError: not as many values as the limit is counted by, or one that is no label's value.
    """
    given = [] if text is None else next(csv.reader([text], skipinitialspace=True), [""])
    if len(given) != len(limit.each):
        if not limit.each:
            raise ValueError(f'limit "{limit.name}" is one balance for all calls: leave out --for')
        example = ",".join(name.upper() for name in limit.each)
        raise ValueError(
            f'limit "{limit.name}" is counted each {", ".join(limit.each)}: expected --for {example}, '
            + ("got none" if text is None else f"got {len(given)} values")
        )
    values = {name: label_value(name, value) if value else "" for name, value in zip(limit.each, given, strict=True)}
    return subject_of(values, limit.each)


def _limit_named(config: Config, name: str) -> Limit:
    found = next((one for one in config.limits if one.name == name), None)
    if found is not None:
        return found
    return fail(f'no limit is named "{name}"{did_you_mean(name, (one.name for one in config.limits))}')


async def _balances(ledger: Ledger, name: str | None) -> Sequence[BalanceLine]:
    lines = await ledger.balances(name)
    return sorted(lines, key=lambda one: (one.limit_name, one.subject))


def add_to(app: typer.Typer, factories: Factories) -> None:
    group = typer.Typer(no_args_is_help=True, help="Limits: what is left of them, and overrides of their amounts.")
    app.add_typer(group, name="limits")
    _add_list(group, factories)
    _add_set(group, factories)
    _add_reset(group, factories)


def _add_list(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="list")
    def list_limits(
        name: Annotated[str | None, typer.Argument(help="Only this limit.", show_default=False)] = None,
        config: ConfigPath = None,
        output: OutputFormat = Format.TABLE,
    ) -> None:
        """Amount, settled, reserved and left of every balance in its current window."""
        loaded = load_store_config(config)
        lines = with_ledger(factories, loaded, lambda ledger: _balances(ledger, name))
        if name is not None and not lines:
            _limit_named(loaded, name)
        say_rows(_COLUMNS, lines, output, empty="no balance yet: no call has been counted in a current window")


def _add_set(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="set", cls=_AmountCommand)
    def set_limit(
        name: LimitName,
        amount: Annotated[str, typer.Argument(help="In the limit's unit (dollars for usd).", show_default=False)],
        subject: Subject = None,
        until: Annotated[
            str | None,
            typer.Option(metavar="WHEN", help="When it ends: 2h, 3d, or a date such as 2026-12-01; default: never."),
        ] = None,
        config: ConfigPath = None,
    ) -> None:
        """Override the amount of a limit, or of one subject's balance. Holds at once, everywhere."""
        loaded = load_store_config(config)
        limit = _limit_named(loaded, name)
        now_ms = time.time_ns() // NS_PER_MS
        try:
            stored = parse_subject(limit, subject)
            units = parse_amount(limit.unit, amount)
            until_ms = None if until is None else end_ms(until, now_ms=now_ms, timezone=loaded.timezone)
        except ValueError as error:
            fail(str(error), exit_code=MISUSED)
        _set_amount(factories, loaded, limit, stored, units, until_ms)
        how_long = "from now on" if until_ms is None else f"until {iso_time(until_ms)}"
        configured = limit.unit.amount_text(limit.amount)
        say(f"{_shown(limit, stored)}: {limit.unit.amount_text(units)} {how_long} (config: {configured})")


def _add_reset(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="reset")
    def reset_limit(name: LimitName, subject: Subject = None, config: ConfigPath = None) -> None:
        """Take back an amount that `set` gave: the config's holds again, at once, everywhere."""
        loaded = load_store_config(config)
        limit = _limit_named(loaded, name)
        try:
            stored = parse_subject(limit, subject)
        except ValueError as error:
            fail(str(error), exit_code=MISUSED)
        _set_amount(factories, loaded, limit, stored, None, None)
        say(f"{_shown(limit, stored)}: {limit.unit.amount_text(limit.amount)} again, as in the config")


def _set_amount(
    factories: Factories, config: Config, limit: Limit, subject: str, amount: int | None, until_ms: int | None
) -> None:
    try:
        with_ledger(factories, config, lambda ledger: ledger.set_amount(limit.name, subject, amount, until_ms=until_ms))
    except LimitUnknown as error:
        where = f"it stands in {config.source}, but no gateway has applied it yet"
        fail(f"{error}: {where}; start `spendfuse serve`, or reload it, first")


def _shown(limit: Limit, subject: str) -> str:
    whose = labels_text(zip(limit.each, subject_values(subject), strict=True))
    return f'limit "{limit.name}"' + (f" ({whose})" if whose else "")
