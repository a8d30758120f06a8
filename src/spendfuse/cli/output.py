"""How commands speak: tables for people, JSON and CSV for programs, one line per error.

Answers go to standard output, everything else to standard error. Color only on a terminal and never under NO_COLOR.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NoReturn, TypeVar

import typer

FAILED = 1
"""The exit code of an answer that is no, or of work that could not be done."""
MISUSED = 2
"""The exit code of a wrong command line or config."""

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]
Row = TypeVar("Row")


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column: `name` and the exact `value` for programs, `title` and `text` for people.

    Without a title people do not see it, without a `value` programs do not.
    """

    name: str
    title: str
    value: Callable[[Row], Json] | None
    text: Callable[[Row], str]
    is_number: bool = False


def say(text: str = "") -> None:
    """Write a line to standard output."""
    typer.echo(text)


def note(text: str) -> None:
    """Write a line to standard error."""
    typer.echo(text, err=True)


def fail(message: str, *, exit_code: int = FAILED) -> NoReturn:
    """End the command with one message on standard error."""
    note(f"error: {message}")
    raise typer.Exit(exit_code)


def say_json(value: Json) -> None:
    say(json.dumps(value, ensure_ascii=False, indent=2))


def say_csv(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
    """A header and one line for each row, with the values that programs get."""
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    read = [column for column in columns if column.value is not None]
    writer.writerow([column.name for column in read])
    for record in records(read, rows):
        writer.writerow(["" if value is None else _cell(value) for value in record.values()])
    typer.echo(held.getvalue(), nl=False)


def _cell(value: Json) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def records(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> list[Mapping[str, Json]]:
    """The rows as JSON objects."""
    return [{column.name: column.value(row) for column in columns if column.value is not None} for row in rows]


def say_table(columns: Sequence[Column[Row]], rows: Sequence[Row], *, totals: Sequence[Row] = ()) -> None:
    """A table: ruled on a terminal, plain aligned text when piped. `totals` stand below the rows."""
    seen = [column for column in columns if column.title]
    body = [[column.text(row) for column in seen] for row in rows]
    foot = [[column.text(row) for column in seen] for row in totals]
    if is_terminal():
        _say_ruled(seen, body, foot)
        return
    lines = [[column.title for column in seen], *body, *foot]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(line, widths, seen, strict=True)
        ]
        say("  ".join(cells).rstrip())


def _say_ruled(columns: Sequence[Column[Row]], body: list[list[str]], foot: list[list[str]]) -> None:
    # Rich costs some start-up time that commands without a table need not pay.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold")
    for line in body:
        table.add_row(*map(Text, line))
    for index, line in enumerate(foot):
        if index == 0:
            table.add_section()
        table.add_row(*map(Text, line), style="bold")
    Console(highlight=False).print(table)


def is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def say_rows(columns: Sequence[Column[Row]], rows: Sequence[Row], output: Format, *, empty: str) -> None:
    """The rows in the asked format; `empty` is what people read when there are none."""
    match output:
        case Format.JSON:
            say_json(records(columns, rows))
        case Format.CSV:
            say_csv(columns, rows)
        case Format.TABLE:
            if rows:
                say_table(columns, rows)
            else:
                note(empty)
