"""`spendfuse import`: a LiteLLM YAML as ours."""

from pathlib import Path
from typing import Annotated

import typer

from spendfuse.cli.factories import Factories
from spendfuse.cli.options import AcceptUnenforced
from spendfuse.cli.output import MISUSED, fail, note, say
from spendfuse.config.document import read_yaml
from spendfuse.litellm_config import is_litellm, to_yaml, translate


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}", exit_code=MISUSED)
    except UnicodeDecodeError as error:
        fail(f"{file}: is not UTF-8: byte {error.start}", exit_code=MISUSED)


def add_to(app: typer.Typer, factories: Factories) -> None:
    del factories  # Nothing is opened: a config is only read.

    @app.command(name="import")
    def import_(
        file: Annotated[Path, typer.Argument(help="A LiteLLM proxy YAML.", show_default=False)],
        accept_unenforced: AcceptUnenforced = False,
    ) -> None:
        """Print a LiteLLM YAML as a Spendfuse YAML.

        Keys that stand in the file become references to environment variables. Whatever is not honoured is told on
        standard error.
        """
        text = _read(file)
        tree, _ = read_yaml(text.removeprefix("\N{BYTE ORDER MARK}"), str(file))
        if not is_litellm(tree):
            fail(f"{file}: is no LiteLLM config: it has no model_list", exit_code=MISUSED)
        found = translate(text, source=str(file), folder=file.parent, accept_unenforced=accept_unenforced)
        for warning in found.warnings:
            note(f"warning: {warning}")
        if found.config.makes_key:
            note("note: it has no master_key, so no client key: make one with `spendfuse keys create`")
        say(f"# Translated from {file.name}.")
        for variable in found.variables:
            say(f"# Set {variable.name} in the environment; its value stands there at {variable.stands_at}.")
        say(to_yaml(found.tree).rstrip("\n"))
