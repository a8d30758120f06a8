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

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="SPENDFUSE_CONFIG", metavar="FILE", help="The config file.")
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
