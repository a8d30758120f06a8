"""`spendfuse keys`: create, list and revoke client keys. A key itself is shown once and never stored."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath, OutputFormat, with_ledger
from spendfuse.cli.output import MISUSED, Column, Format, fail, is_terminal, note, say, say_json, say_rows
from spendfuse.cli.texts import did_you_mean, iso_time, labels_text
from spendfuse.config import Config
from spendfuse.core.labels import LabelInvalid, label_name, label_value
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.store import KeyRecord, Ledger

LABEL_SOURCES = ("headers", "body")


@dataclass(frozen=True, slots=True)
class _Line:
    record: KeyRecord
    source: str

    @property
    def state(self) -> str:
        return "live" if self.record.revoked_at_ms is None else "revoked"


_COLUMNS: tuple[Column[_Line], ...] = (
    Column("name", "NAME", lambda one: one.record.name, lambda one: one.record.name),
    Column(
        "labels",
        "LABELS",
        lambda one: dict(one.record.labels),
        lambda one: labels_text(one.record.labels.items()) or "-",
    ),
    Column(
        "labels_from",
        "LABELS FROM",
        lambda one: list(one.record.labels_from),
        lambda one: ", ".join(one.record.labels_from) or "-",
    ),
    Column("source", "SOURCE", lambda one: one.source, lambda one: one.source),
    Column(
        "created_at",
        "CREATED",
        lambda one: iso_time(one.record.created_at_ms) if one.record.created_at_ms else None,
        lambda one: iso_time(one.record.created_at_ms) if one.record.created_at_ms else "-",
    ),
    Column("state", "STATE", lambda one: one.state, lambda one: one.state),
    Column(
        "revoked_at",
        "",
        lambda one: None if one.record.revoked_at_ms is None else iso_time(one.record.revoked_at_ms),
        lambda one: "",
    ),
)


async def create_key(ledger: Ledger, name: str, *, labels: dict[str, str], labels_from: Sequence[str]) -> str:
    """Store a new key under a name and return it; nothing can show it again.

    Raises:
        LedgerError: the name is taken.
    """
    # Loads the server's packages, which listing keys does not need.
    from spendfuse.server.auth import digest_of, new_key

    key = new_key()
    now_ms = time.time_ns() // NS_PER_MS
    await ledger.add_key(KeyRecord(name, digest_of(key.encode()), labels, tuple(labels_from), now_ms))
    return key


def _labels(texts: Sequence[str]) -> dict[str, str]:
    # Loads the gate, which no other command needs.
    from spendfuse.gate.attribution import OWN_LABELS

    labels: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            fail(f"--label {text}: expected NAME=VALUE, such as organization=acme", exit_code=MISUSED)
        try:
            name, value = label_name(name.strip()), label_value(name.strip(), value)
        except LabelInvalid as error:
            fail(f"--label {text}: {error}", exit_code=MISUSED)
        if name in OWN_LABELS:
            fail(
                f"--label {text}: Spendfuse gives it itself, as it does {', '.join(sorted(OWN_LABELS))}",
                exit_code=MISUSED,
            )
        if labels.setdefault(name, value) != value:
            fail(f"--label {name} is given twice", exit_code=MISUSED)
    return labels


def _labels_from(text: str) -> tuple[str, ...]:
    sources = tuple(dict.fromkeys(part for part in text.replace(" ", "").split(",") if part))
    for source in sources:
        if source not in LABEL_SOURCES:
            fail(f"--labels-from {text}: {source} is no source{did_you_mean(source, LABEL_SOURCES)}", exit_code=MISUSED)
    return sources


def _configured(config: Config) -> list[KeyRecord]:
    return [KeyRecord(one.name, b"", one.labels, tuple(one.labels_from)) for one in config.keys]


def add_to(app: typer.Typer, factories: Factories) -> None:
    group = typer.Typer(no_args_is_help=True, help="Client keys: create, list, revoke.")
    app.add_typer(group, name="keys")
    _add_create(group, factories)
    _add_list(group, factories)
    _add_revoke(group, factories)


def _add_create(group: typer.Typer, factories: Factories) -> None:
    @group.command()
    def create(
        name: Annotated[str, typer.Argument(help="Its stable name, which is its `key` label.", show_default=False)],
        label: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME=VALUE", help="A label of all its calls, which no call can change. Repeatable."),
        ] = None,
        labels_from: Annotated[
            str, typer.Option(metavar="SOURCES", help="Where its calls may claim other labels: headers, body, or ''.")
        ] = ",".join(LABEL_SOURCES),
        config: ConfigPath = None,
        output: OutputFormat = Format.TABLE,
    ) -> None:
        """Make a key and show it once. It works within a second, in every process."""
        labels, sources = _labels(label or []), _labels_from(labels_from)
        try:
            name = label_value("key", name)
        except LabelInvalid as error:
            fail(str(error), exit_code=MISUSED)
        loaded = load_store_config(config, makes_store=True)
        if any(one.name == name for one in _configured(loaded)):
            fail(f'a key named "{name}" stands in {loaded.source}')
        key = with_ledger(
            factories, loaded, lambda ledger: create_key(ledger, name, labels=labels, labels_from=sources)
        )
        if output is Format.JSON:
            say_json({"name": name, "key": key, "labels": labels, "labels_from": list(sources)})
            return
        say(key)
        if is_terminal():
            note(f'This is the only time that the key "{name}" is shown; it is stored as a hash.')


def _add_list(group: typer.Typer, factories: Factories) -> None:
    @group.command(name="list")
    def list_keys(config: ConfigPath = None, output: OutputFormat = Format.TABLE) -> None:
        """All keys, revoked ones included; never the keys themselves."""
        loaded = load_store_config(config)
        stored = with_ledger(factories, loaded, lambda ledger: ledger.keys())
        lines = [_Line(one, "store") for one in stored] + [_Line(one, "config") for one in _configured(loaded)]
        say_rows(_COLUMNS, lines, output, empty="no key exists yet; create one: spendfuse keys create NAME")


def _add_revoke(group: typer.Typer, factories: Factories) -> None:
    @group.command()
    def revoke(
        name: Annotated[str, typer.Argument(help="The key's name.", show_default=False)],
        config: ConfigPath = None,
    ) -> None:
        """Refuse new calls of a key within a second, in every process. Streams that run, run on."""
        loaded = load_store_config(config)
        if any(one.name == name for one in _configured(loaded)):
            fail(f'the key "{name}" stands in {loaded.source}: take it out there and restart')

        async def revoke_it(ledger: Ledger) -> list[str] | None:
            if await ledger.revoke_key(name):
                return None
            return [one.name for one in await ledger.keys() if one.revoked_at_ms is None]

        live = with_ledger(factories, loaded, revoke_it)
        if live is not None:
            fail(f'no live key is named "{name}"{did_you_mean(name, live)}')
        say(f'revoked "{name}"')
