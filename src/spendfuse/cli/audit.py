"""`spendfuse audit`: do all balances equal the fold of their entries and open reservations?"""

import typer

from spendfuse.cli.factories import Factories
from spendfuse.cli.options import DEFAULT_CONFIG, ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import FAILED, Column, Format, note, say, say_rows
from spendfuse.cli.texts import iso_time
from spendfuse.config import load
from spendfuse.ledger.store import Mismatch

COLUMNS = (
    Column[Mismatch]("limit", "LIMIT", lambda one: one.limit_name, lambda one: one.limit_name),
    Column[Mismatch]("subject", "SUBJECT", lambda one: one.subject, lambda one: one.subject),
    Column[Mismatch](
        "window_starts_at",
        "WINDOW FROM",
        lambda one: iso_time(one.window_starts_at_ms),
        lambda one: iso_time(one.window_starts_at_ms),
    ),
    Column[Mismatch]("settled", "SETTLED", lambda one: one.settled, lambda one: f"{one.settled:,}", is_number=True),
    Column[Mismatch](
        "settled_by_entries",
        "BY ENTRIES",
        lambda one: one.settled_by_entries,
        lambda one: f"{one.settled_by_entries:,}",
        is_number=True,
    ),
    Column[Mismatch]("reserved", "RESERVED", lambda one: one.reserved, lambda one: f"{one.reserved:,}", is_number=True),
    Column[Mismatch](
        "reserved_by_reservations",
        "BY RESERVATIONS",
        lambda one: one.reserved_by_reservations,
        lambda one: f"{one.reserved_by_reservations:,}",
        is_number=True,
    ),
)
"""Amounts are in the limit's unit, money as nano-dollars: an audit compares integers."""


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def audit(config: ConfigPath = DEFAULT_CONFIG, output: OutputFormat = Format.TABLE) -> None:
        """Recompute every balance from the ledger's entries; exit 1 when one differs."""
        mismatches = with_ledger(factories, load(config), lambda ledger: ledger.audit())
        if not mismatches and output is Format.TABLE:
            say("clean: every balance equals the fold of its entries and open reservations")
            return
        say_rows(COLUMNS, mismatches, output, empty="")
        if mismatches:
            note(f"error: {len(mismatches)} balances differ from their entries; amounts are in the limit's unit")
            raise typer.Exit(FAILED)
