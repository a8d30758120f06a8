"""All commands as one program.

Failure policy: whatever Spendfuse raises on purpose ends a command with one message on standard error, with exit code 2
for a config or command line that can't be used, 1 for all else. Anything unexpected keeps its traceback.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spendfuse import __version__
from spendfuse.cli import (
    alerts,
    audit,
    breaker,
    check,
    demo,
    drill,
    import_config,
    keys,
    limits,
    migrate,
    prices,
    report,
    serve,
)
from spendfuse.cli.factories import Factories
from spendfuse.cli.output import MISUSED, fail, say
from spendfuse.core.errors import ConfigInvalid, SpendfuseError

_OWN_OPTIONS = frozenset({"--help", "-h", "--version"})


class _Commands(TyperGroup):
    """Options without a command mean `serve`. The contexts are click's, whose types typer does not export."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in _OWN_OPTIONS:
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigInvalid as error:
            fail(str(error), exit_code=MISUSED)
        except SpendfuseError as error:
            fail(str(error))


def _say_version(asked: bool) -> None:
    if asked:
        say(f"spendfuse {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The cost firewall for LLM APIs. Options without a command mean `serve`."""


def build(factories: Factories) -> typer.Typer:
    """The program with all its commands."""
    app = typer.Typer(
        name="spendfuse",
        cls=_Commands,
        callback=_main,
        no_args_is_help=True,
        add_completion=False,
        # Plain help and usage errors: the same on a terminal and in a log, and a quicker start.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in (
        serve,
        check,
        keys,
        limits,
        breaker,
        report,
        alerts,
        prices,
        audit,
        migrate,
        import_config,
        demo,
        drill,
    ):
        module.add_to(app, factories)
    return app
