"""Databases of PostgreSQL that gateways share, and a look into them from outside."""

import asyncio
import contextlib
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from gateway import RunningGateway, running_gateway

SCHEMA = "spendfuse"


def new_database(server_dsn: str, folder: Path) -> str:
    """A database of a test's own on a server, by its URL; `folder` is the test's own too."""
    name = f"t{abs(hash(str(folder)))}"
    fetch(server_dsn, f"CREATE DATABASE {name}")
    return urlsplit(server_dsn)._replace(path=f"/{name}").geturl()


def fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    """Run a statement on a connection of its own, with the ledger's tables in its path."""
    return asyncio.run(_fetch(dsn, statement))


async def _fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": SCHEMA})
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def gateways(config: str, dsn: str, folder: Path, *, count: int, workers: int = 1) -> Generator[list[RunningGateway]]:
    """Gateways of one config on one database; nothing is changed in it but its store."""
    config = config.replace("sqlite:///spendfuse.db", dsn)
    with contextlib.ExitStack() as stack:
        folders = [folder / str(number) for number in range(count)]
        yield [stack.enter_context(running_gateway(config, one, workers=workers)) for one in folders]
