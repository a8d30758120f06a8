"""`spendfuse breaker`: how breakers stand, opening and closing them by hand, and the log of their changes."""

import csv
import getpass
import os
from typing import Annotated

import typer

from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import MISUSED, Column, Format, fail, say, say_rows
from spendfuse.cli.texts import did_you_mean, iso_time, labels_text
from spendfuse.config import Config
from spendfuse.core.breakers import PAUSE, Breaker, Phase
from spendfuse.core.labels import subject_values
from spendfuse.ledger.breakers import BreakerChange
from spendfuse.reports.breakers import BreakerRow, SubjectInvalid, breaker_rows, subject_named

LAST = 50

Name = Annotated[str, typer.Argument(help="The breaker.", show_default=False)]
For = Annotated[
    str | None,
    typer.Option("--for", metavar="VALUES", help="Whose: values in the order of the breaker's `each`."),
]


def phase_text(phase: Phase) -> str:
    """A phase for people."""
    return phase.value.replace("_", " ")


def _time(ms: int | None) -> str | None:
    return None if not ms else iso_time(ms)


def _subject_text(row: BreakerRow) -> str:
    if row.subject is None:
        return f"each {', '.join(row.breaker.each)}"
    return labels_text(row.labels.items()) or "all calls"


def _who(row: BreakerRow) -> str | None:
    return row.state.who if row.state.since_ms else None


_COLUMNS: tuple[Column[BreakerRow], ...] = (
    Column("breaker", "BREAKER", lambda one: one.breaker.name, lambda one: one.breaker.name),
    Column("subject", "SUBJECT", lambda one: None if one.subject is None else dict(one.labels), _subject_text),
    Column("state", "STATE", lambda one: one.state.phase.value, lambda one: phase_text(one.state.phase)),
    Column("since", "SINCE", lambda one: _time(one.state.since_ms), lambda one: _time(one.state.since_ms) or "-"),
    Column("tries_at", "TRIES AT", lambda one: _time(one.tries_at_ms), lambda one: _time(one.tries_at_ms) or "-"),
    Column("opens", "", lambda one: one.breaker.opens, lambda one: ""),
    Column("who", "WHO", _who, lambda one: _who(one) or "-"),
    Column("why", "WHY", lambda one: one.state.why or None, lambda one: one.state.why or "-"),
)


def _change_subject(one: BreakerChange) -> list[tuple[str, str]]:
    return list(zip(one.each, subject_values(one.subject), strict=True))


_LOG_COLUMNS: tuple[Column[BreakerChange], ...] = (
    Column("at", "AT", lambda one: iso_time(one.at_ms), lambda one: iso_time(one.at_ms)),
    Column("breaker", "BREAKER", lambda one: one.breaker, lambda one: one.breaker),
    Column(
        "subject",
        "SUBJECT",
        lambda one: dict(_change_subject(one)),
        lambda one: labels_text(_change_subject(one)) or "all calls",
    ),
    Column("from", "FROM", lambda one: one.before.value, lambda one: phase_text(one.before)),
    Column("to", "TO", lambda one: one.after.value, lambda one: phase_text(one.after)),
    Column("who", "WHO", lambda one: one.who, lambda one: one.who),
    Column("why", "WHY", lambda one: one.why, lambda one: one.why),
)


def os_user() -> str:
    """Who runs this command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def _named(config: Config, name: str) -> Breaker:
    known = {one.name: one for one in (*config.breakers, PAUSE)}
    if name in known:
        return known[name]
    return fail(f'no breaker is named "{name}"{did_you_mean(name, known)}')


def _subject(breaker: Breaker, text: str | None) -> str:
    values = [] if text is None else next(csv.reader([text], skipinitialspace=True), [""])
    try:
        return subject_named(breaker, values)
    except SubjectInvalid as error:
        return fail(f"--for: {error}", exit_code=MISUSED)


def add_to(app: typer.Typer, factories: Factories) -> None:
    group = typer.Typer(no_args_is_help=True, help="Breakers: how they stand, open and close them by hand, their log.")
    app.add_typer(group, name="breaker")
    _add_list(group, factories)
    _add_open(group, factories)
    _add_close(group, factories)
    _add_log(group, factories)


def _add_list(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="list")
    def list_breakers(
        name: Annotated[str | None, typer.Argument(help="Only this breaker.", show_default=False)] = None,
        config: ConfigPath = None,
        output: OutputFormat = Format.TABLE,
    ) -> None:
        """How every breaker stands, for each subject that it has ever opened for."""
        loaded = load_store_config(config)
        states = with_ledger(factories, loaded, lambda ledger: ledger.breakers())
        wanted = loaded.breakers if name is None else (_named(loaded, name),)
        rows = breaker_rows(wanted, states.lines)
        if name is None:
            # What providers have asked for, as long as it holds.
            paused = [one for one in breaker_rows((PAUSE,), states.lines) if (one.tries_at_ms or 0) > states.now_ms]
            rows += paused
        say_rows(_COLUMNS, rows, output, empty="the config has no breakers")


def _add_open(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="open")
    def open_breaker(
        name: Name,
        why: Annotated[str, typer.Option(help="Why, for the log and for whoever is refused.", show_default=False)],
        subject: For = None,
        config: ConfigPath = None,
    ) -> None:
        """Refuse the calls of a breaker's subject until somebody closes it; within a second, in every process."""
        _force(factories, config, name, subject, is_open=True, why=why)


def _add_close(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="close")
    def close_breaker(
        name: Name,
        subject: For = None,
        why: Annotated[str, typer.Option(help="Why, for the log.")] = "closed by hand",
        config: ConfigPath = None,
    ) -> None:
        """Let calls through, whatever opened it; what was counted before counts no more."""
        _force(factories, config, name, subject, is_open=False, why=why)


def _force(factories: Factories, config: ConfigPath, name: str, values: str | None, *, is_open: bool, why: str) -> None:
    loaded = load_store_config(config)
    breaker = _named(loaded, name)
    subject = _subject(breaker, values)
    if not why.strip():
        fail("--why: say it in a few words", exit_code=MISUSED)
    if is_open and not breaker.opens:
        fail(f'breaker "{name}" only raises alerts (opens: false), so it can\'t be opened')
    with_ledger(
        factories,
        loaded,
        lambda ledger: ledger.force_breaker(breaker, subject, is_open=is_open, why=why.strip(), who=os_user()),
    )
    whose = labels_text(zip(breaker.each, subject_values(subject), strict=True)) or "all calls"
    if is_open:
        option = f" --for {values}" if breaker.each else ""
        say(f'breaker "{name}" ({whose}) is open, until: spendfuse breaker close {name}{option}')
    else:
        say(f'breaker "{name}" ({whose}) is closed')


def _add_log(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="log")
    def log(
        last: Annotated[int, typer.Option(min=1, help="So many of the newest changes.")] = LAST,
        config: ConfigPath = None,
        output: OutputFormat = Format.TABLE,
    ) -> None:
        """Every change of a breaker: when, from, to, why, who. The newest last."""
        loaded = load_store_config(config)
        changes = with_ledger(factories, loaded, lambda ledger: ledger.breaker_changes(newest=last))
        say_rows(_LOG_COLUMNS, changes, output, empty="no breaker has ever changed")
