"""The harness of the PostgreSQL engine."""

import asyncio
import threading
from typing import Any

import asyncpg
import pytest
from ledger_harness import NOON_NS

from spendfuse.clock import FrozenClock
from spendfuse.core.limits import Limit
from spendfuse.ledger.postgres import open_postgres
from spendfuse.ledger.store import Ledger

LEASE_S = 3_600.0
"""Longer than any test."""


@pytest.fixture
def empty_postgres(postgres_dsn: str) -> str:
    """The server without any store."""
    execute(postgres_dsn, "DROP SCHEMA IF EXISTS spendfuse CASCADE")
    return postgres_dsn


class PostgresHarness:
    """Ledgers over one schema, each with a connection of its own, as processes have."""

    def __init__(self, dsn: str) -> None:
        self.clock = FrozenClock(NOON_NS)
        self.dsn = dsn
        self._ledgers: list[Ledger] = []

    async def open(self, *limits: Limit) -> Ledger:
        return await self._open(limits)

    async def open_without_limits(self) -> Ledger:
        return await self._open(None)

    def kill(self, ledger: Ledger) -> None:
        execute(self.dsn, f"UPDATE spendfuse.owner SET lease_until_ms = 0 WHERE owner_id = {ledger.owner_id}")

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return await rows(self.dsn, query)

    async def close(self) -> None:
        for ledger in self._ledgers:
            await ledger.close()

    async def _open(self, limits: tuple[Limit, ...] | None) -> Ledger:
        ledger = await open_postgres(self.dsn, limits=limits, clock=self.clock, lease_s=LEASE_S)
        self._ledgers.append(ledger)
        return ledger


def execute(dsn: str, script: str) -> None:
    """Run statements, whether or not an event loop runs here."""

    async def run() -> None:
        connection = await raw_connection(dsn)
        try:
            await connection.execute(script)
        finally:
            await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()


async def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """What a query gives."""
    connection = await raw_connection(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def raw_connection(dsn: str) -> Any:
    """A connection beside the engine's."""
    return await asyncpg.connect(dsn, server_settings={"search_path": "spendfuse"})
