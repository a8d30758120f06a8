"""What keeps a PostgreSQL store small, its reports fast and its balances right."""

from spendfuse.ledger.postgres_connection import PostgresConnection
from spendfuse.ledger.store import Mismatch


async def keep_up(connection: PostgresConnection, *, retention_ms: int | None, now_ms: int) -> bool:
    """See `Ledger.upkeep`; within the caller's transaction."""
    raise NotImplementedError


async def repair(connection: PostgresConnection, *, now_ms: int) -> tuple[Mismatch, ...]:
    """See `Ledger.repair`; within the caller's transaction, alone with the store."""
    raise NotImplementedError
