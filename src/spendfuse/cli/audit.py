"""`spendfuse audit`: do all balances equal the fold of their entries and open reservations?"""

from collections.abc import Sequence

import typer

from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import Column, Format, fail, say, say_rows
from spendfuse.cli.texts import counted, iso_time
from spendfuse.ledger.store import BalanceMismatch, Mismatch

_COLUMNS: tuple[Column[BalanceMismatch], ...] = (
    Column("limit", "LIMIT", lambda one: one.limit_name, lambda one: one.limit_name),
    Column("subject", "SUBJECT", lambda one: one.subject, lambda one: one.subject),
    Column(
        "window_starts_at",
        "WINDOW FROM",
        lambda one: iso_time(one.window_starts_at_ms),
        lambda one: iso_time(one.window_starts_at_ms),
    ),
    Column("settled", "SETTLED", lambda one: one.settled, lambda one: f"{one.settled:,}", is_number=True),
    Column(
        "settled_by_entries",
        "BY ENTRIES",
        lambda one: one.settled_by_entries,
        lambda one: f"{one.settled_by_entries:,}",
        is_number=True,
    ),
    Column("reserved", "RESERVED", lambda one: one.reserved, lambda one: f"{one.reserved:,}", is_number=True),
    Column(
        "reserved_by_reservations",
        "BY RESERVATIONS",
        lambda one: one.reserved_by_reservations,
        lambda one: f"{one.reserved_by_reservations:,}",
        is_number=True,
    ),
)
"""Amounts are in the limit's unit, money as nano-dollars: an audit compares integers."""


def say_audit(mismatches: Sequence[Mismatch], output: Format = Format.TABLE) -> None:
    """Say what an audit found.

    Raises:
        typer.Exit: a balance differs; the command has failed.
    """
    if not mismatches and output is Format.TABLE:
        say("clean: every balance equals the fold of its entries and open reservations")
        return
    balances = [one for one in mismatches if isinstance(one, BalanceMismatch)]
    say_rows(_COLUMNS, balances, output, empty="")
    if mismatches:
        fail(f"{counted(len(mismatches), 'balance')} not equal to the fold of entries; amounts are in the limit's unit")


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def audit(config: ConfigPath = None, output: OutputFormat = Format.TABLE) -> None:
        """Recompute every balance from its entries.

        Exits 1 when one differs.
        """
        say_audit(with_ledger(factories, load_store_config(config), lambda ledger: ledger.audit()), output)
