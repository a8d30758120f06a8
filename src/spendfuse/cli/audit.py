"""`spendfuse audit`: do all balances and rollups equal the fold of their entries and open reservations? And repair."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, assert_never

import typer

from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import MISUSED, Column, Format, fail, note, say, say_rows
from spendfuse.cli.texts import counted, iso_time, labels_text
from spendfuse.config import Config
from spendfuse.core.reservations import reservation_text
from spendfuse.ledger.store import BalanceMismatch, DayMismatch, Mismatch, RollupMismatch, RollupSums, StaleReservation

_ALL_CALLS = "all calls"


@dataclass(frozen=True, slots=True)
class _Difference:
    """One figure that is not what it should be: tokens, calls or nano-dollars, as an audit compares integers."""

    kind: str
    limit: str
    subject: str
    from_ms: int
    figure: str
    found: int
    expected: int


_COLUMNS: tuple[Column[_Difference], ...] = (
    Column("kind", "KIND", lambda one: one.kind, lambda one: one.kind),
    Column("limit", "LIMIT", lambda one: one.limit, lambda one: one.limit or "-"),
    Column("subject", "SUBJECT", lambda one: one.subject, lambda one: one.subject),
    Column("from", "FROM", lambda one: iso_time(one.from_ms), lambda one: iso_time(one.from_ms)),
    Column("figure", "FIGURE", lambda one: one.figure, lambda one: one.figure),
    Column("is", "IS", lambda one: one.found, lambda one: f"{one.found:,}", is_number=True),
    Column("should_be", "SHOULD BE", lambda one: one.expected, lambda one: f"{one.expected:,}", is_number=True),
)
_MEANINGS: Mapping[type[Mismatch], str] = {
    BalanceMismatch: (
        "balance: what a limit has settled and reserved for a subject; should be the sum of its entries and open"
        " reservations, which decide how much may still be spent"
    ),
    RollupMismatch: "spend: a quarter of an hour of spend by calls with equal labels; reports add these up",
    DayMismatch: "spend_day: a day (UTC) of spend by one value of a label; reports add these up",
    StaleReservation: "reservation: stands open although it has its closing entry; goes, as nobody will ever end it",
}


def say_audit(mismatches: Sequence[Mismatch], output: Format = Format.TABLE) -> None:
    """Say what an audit found.

    Raises:
        typer.Exit: something differs; the command has failed.
    """
    _say_differences(mismatches, output)
    if mismatches:
        fail(
            f"{counted(len(mismatches), 'difference')} from the entries; amounts are in the limit's unit, money in"
            " nano-dollars. `spendfuse audit --repair` explains and corrects"
        )


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def audit(
        config: ConfigPath = None,
        output: OutputFormat = Format.TABLE,
        repair: Annotated[bool, typer.Option("--repair", help="Explain what differs, ask, and correct it.")] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Correct without asking; for scripts.")] = False,
    ) -> None:
        """Recompute every balance and rollup from the entries.

        Exits 1 when one differs, or with --repair when one still does.
        """
        if yes and not repair:
            fail("--yes goes with --repair", exit_code=MISUSED)
        loaded = load_store_config(config)
        found = with_ledger(factories, loaded, lambda ledger: ledger.audit())
        if repair and found:
            _repair(factories, loaded, found, output, is_agreed=yes)
        else:
            say_audit(found, output)


def _repair(
    factories: Factories, config: Config, found: Sequence[Mismatch], output: Format, *, is_agreed: bool
) -> None:
    """Explain, ask, correct, and audit again.

    Raises:
        typer.Exit: nobody agreed, or something differs still.
    """
    _say_differences(found, output)
    for kind, meaning in _MEANINGS.items():
        if any(isinstance(one, kind) for one in found):
            note(meaning)
    note("Entries stay as they are. Each correction is kept in the table `repair`. Calls may go on meanwhile.")
    if not is_agreed:
        if not sys.stdin.isatty():
            fail("nothing was changed: there is no terminal to ask on; --yes corrects without asking")
        if not typer.confirm(f"Correct {counted(len(found), 'difference')}?", err=True):
            fail("nothing was changed")
    repaired = with_ledger(factories, config, lambda ledger: ledger.repair())
    note(f"corrected {counted(len(repaired), 'difference')}")
    left = with_ledger(factories, config, lambda ledger: ledger.audit())
    if left:
        _say_differences(left, output)
        fail(f"{counted(len(left), 'difference')} still there: something goes on changing the store by other means")
    note("clean: everything equals the entries and open reservations now")


def _say_differences(mismatches: Sequence[Mismatch], output: Format) -> None:
    if not mismatches and output is Format.TABLE:
        say("clean: every balance and rollup equals the fold of its entries and open reservations")
        return
    say_rows(_COLUMNS, [line for one in mismatches for line in _differences(one)], output, empty="")


def _differences(one: Mismatch) -> Iterator[_Difference]:
    figures: dict[str, tuple[int, int]]
    match one:
        case BalanceMismatch():
            figures = {
                "settled": (one.settled, one.settled_by_entries),
                "reserved": (one.reserved, one.reserved_by_reservations),
            }
            key = ("balance", one.limit_name, one.subject, one.window_starts_at_ms)
        case RollupMismatch():
            figures = _both(one.rolled_up, one.by_entries)
            key = ("spend", "", labels_text(sorted(one.labels.items())) or _ALL_CALLS, one.bucket_ms)
        case DayMismatch():
            figures = _both(one.rolled_up, one.by_entries)
            key = ("spend_day", "", labels_text([(one.label, one.value)]) if one.label else _ALL_CALLS, one.day_ms)
        case StaleReservation():
            # One that holds nothing is still there.
            held = one.held
            figures = {
                "open": (1, 0),
                "cost": (held.cost, 0),
                "input_tokens": (held.input_tokens, 0),
                "output_tokens": (held.output_tokens, 0),
            }
            key = ("reservation", "", reservation_text(one.reservation_id), one.reserved_at_ms)
        case _:
            assert_never(one)
    for figure, (found, expected) in figures.items():
        if found != expected:
            yield _Difference(*key, figure, found, expected)


def _both(found: RollupSums, expected: RollupSums) -> dict[str, tuple[int, int]]:
    before, after = asdict(found), asdict(expected)
    return {name: (before[name], after[name]) for name in before}
