"""Options that several commands have, and the way to the ledger."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from spendfuse.cli.factories import Factories
from spendfuse.cli.output import Format
from spendfuse.config import Config
from spendfuse.ledger.store import Ledger

T = TypeVar("T")

DEFAULT_CONFIG = Path("spendfuse.yaml")
"""Where a config is looked for when no file was named."""

ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="SPENDFUSE_CONFIG",
        metavar="FILE",
        help="The config file, ours or LiteLLM's; default: spendfuse.yaml, and without one zero config.",
        show_default=False,
    ),
]
"""None where no file was named."""
AcceptUnenforced = Annotated[
    bool,
    typer.Option(
        "--accept-unenforced", help="Take a LiteLLM config although some of its settings would not hold here."
    ),
]
OutputFormat = Annotated[
    Format, typer.Option("--format", help="`table` for people, `json` or `csv` for programs.", show_default=True)
]


def with_ledger(factories: Factories, config: Config, work: Callable[[Ledger], Awaitable[T]]) -> T:
    """Do the work with the config's ledger, open for as long as it takes."""

    async def run() -> T:
        async with factories.open_ledger(config) as ledger:
            return await work(ledger)

    return asyncio.run(run())
