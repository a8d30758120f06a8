"""`spendfuse limits`: what every limit has left, and amounts that override the config's for one subject."""

import csv
from collections.abc import Sequence
from typing import Annotated

import typer

from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import MISUSED, Column, Format, Json, fail, say, say_rows
from spendfuse.cli.texts import did_you_mean, iso_time, labels_text
from spendfuse.config import Config
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.labels import LabelInvalid, label_value, subject_of, subject_values
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import AmountInvalid, format_usd, parse_exact, parse_usd
from spendfuse.ledger.store import BalanceLine, Ledger

RESET = "reset"


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
        "overridden": line.is_overridden,
    }
    return " ".join(word for word, holds in words.items() if holds)


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
)


def parse_amount(unit: Unit, text: str) -> int:
    """An amount as a limit's unit stores it: dollars as nano-dollars, all else whole.

    Raises:
        AmountInvalid: not a number, negative, or finer than the unit.
    """
    if unit is Unit.USD:
        return parse_usd(text.removeprefix("$"))
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
    @group.command(name="set")
    def set_limit(
        name: Annotated[str, typer.Argument(help="The limit.", show_default=False)],
        amount: Annotated[
            str, typer.Argument(help="In the limit's unit (dollars for usd), or `reset`.", show_default=False)
        ],
        subject: Annotated[
            str | None,
            typer.Option("--for", metavar="VALUES", help="Whose balance: values in the order of the limit's `each`."),
        ] = None,
        config: ConfigPath = None,
    ) -> None:
        """Override the amount of a limit, or of one subject's balance, until `reset`. Holds at once, everywhere."""
        loaded = load_store_config(config)
        limit = _limit_named(loaded, name)
        try:
            stored = parse_subject(limit, subject)
            units = None if amount == RESET else parse_amount(limit.unit, amount)
        except (AmountInvalid, LabelInvalid, ValueError) as error:
            fail(str(error), exit_code=MISUSED)
        try:
            with_ledger(factories, loaded, lambda ledger: ledger.set_amount(name, stored, units))
        except LedgerUnavailable:
            raise
        except LedgerError as error:
            where = f"it stands in {loaded.source}, but no gateway has applied it yet"
            fail(f"{error}: {where}; (re)start `spendfuse serve` first")
        whose = labels_text(zip(limit.each, subject_values(stored), strict=True))
        shown = f'limit "{name}"' + (f" ({whose})" if whose else "")
        configured = limit.unit.amount_text(limit.amount)
        if units is None:
            say(f"{shown}: {configured} again, as in the config")
        else:
            say(f"{shown}: {limit.unit.amount_text(units)} from now on (config: {configured})")
