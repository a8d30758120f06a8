"""A connection to a PostgreSQL store: how it is opened, what it must promise, what its errors mean, and the schema.

Failure policy: closed. What the network or the server refuses (away, in recovery, out of space, a lock not had in time)
is `LedgerUnavailable` with the reason; a connection on which that happened is not used again. A broken constraint is
neither: it belongs to an operation, and is left to the caller. No message repeats the address, as it may hold a
password.
"""

import contextlib
import re
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.ledger.statements import migrations, sql

SCHEMA = "spendfuse"
Row = tuple[Any, ...]
"""A row as the driver gives it: what is in it follows from its statement."""

_COMMIT_PROMISES = ("on", "remote_apply", "remote_write", "local")
_COUNTED = re.compile(r"\d+$")

_connect = cast("Callable[..., Awaitable[Any]]", asyncpg.connect)  # pyright: ignore[reportUnknownMemberType]
_SELECT_SETTINGS = sql("postgres", "select_settings")
_LOCK_MIGRATIONS = sql("postgres", "lock_migrations")
_SELECT_SCHEMA_EXISTS = sql("postgres", "select_schema_exists")
_CREATE_SCHEMA = sql("postgres", "create_schema")
_SELECT_NEWEST_MIGRATION = sql("postgres", "select_newest_migration")
_INSERT_MIGRATION = sql("postgres", "insert_migration")


class ConnectionLost(Exception):
    """The connection is gone, or the server can't be written to: whether a commit under way succeeded isn't known."""


class StartAgain(Exception):
    """Another process's transaction came between: nothing was committed, and the same again may succeed."""


class PostgresConnection:
    """One connection, with the driver's errors sorted by what can be done about them."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def is_closed(self) -> bool:
        """Whether it has been closed by either side."""
        return self._raw.is_closed()

    async def run(self, script: str) -> str:
        """Run statements without parameters; the tag of the last."""
        with _sorted_errors():
            return await self._raw.execute(script)

    async def rows(self, statement: str, *parameters: object) -> Sequence[Row]:
        """All rows of a statement."""
        with _sorted_errors():
            return [tuple(row) for row in await self._raw.fetch(statement, *parameters)]

    async def row(self, statement: str, *parameters: object) -> Row | None:
        """Its first row."""
        with _sorted_errors():
            row = await self._raw.fetchrow(statement, *parameters)
            return None if row is None else tuple(row)

    async def only(self, statement: str, *parameters: object) -> Any:
        """The first column of its first row, which it always has."""
        row = await self.row(statement, *parameters)
        assert row is not None
        return row[0]

    async def record(self, statement: str, *parameters: object) -> Mapping[str, Any]:
        """Its only row, with names."""
        with _sorted_errors():
            row = await self._raw.fetchrow(statement, *parameters)
        assert row is not None
        return row

    async def change(self, statement: str, *parameters: object) -> int:
        """Run a statement that changes rows: how many."""
        with _sorted_errors():
            tag = await self._raw.execute(statement, *parameters)
        counted = _COUNTED.search(tag)
        return int(counted[0]) if counted else 0

    async def commit(self) -> None:
        """Commit; only when this returns is anything durable.

        Raises:
            ConnectionLost: whether it was committed isn't known.
        """
        if await self.run("COMMIT") != "COMMIT":
            raise StartAgain("the store rolled the transaction back")

    def terminate(self) -> None:
        """Drop the connection, whatever is under way on it."""
        self._raw.terminate()


async def connect(dsn: str, *, timeout_s: float, is_writer: bool) -> PostgresConnection:
    """Connect to a store that keeps what it has committed.

    Raises:
        LedgerUnavailable: it can't be reached, or is a standby.
        LedgerError: it is set up to lose commits.
    """
    timeout_ms = str(max(1, int(timeout_s * 1_000)))
    settings = {
        "application_name": "spendfuse",
        "search_path": SCHEMA,
        "default_transaction_isolation": "read committed",
        "tcp_user_timeout": timeout_ms,
        "client_min_messages": "warning",
        "jit": "off",
    }
    if is_writer:
        settings |= {
            "statement_timeout": timeout_ms,
            "idle_in_transaction_session_timeout": timeout_ms,
            # Tables that are empty when a plan is made must not be read whole ever after.
            "enable_seqscan": "off",
            "plan_cache_mode": "force_generic_plan",
        }
    with unavailable():
        with _sorted_errors():
            raw = await _connect(dsn, timeout=timeout_s, server_settings=settings)
        connection = PostgresConnection(raw)
        try:
            await _check_promises(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection


async def _check_promises(connection: PostgresConnection) -> None:
    row = await connection.row(_SELECT_SETTINGS)
    assert row is not None
    fsync, synchronous_commit, is_standby = row
    if fsync != "on":
        raise LedgerError("the store has fsync off: a crash would lose what was spent. Set fsync = on in PostgreSQL")
    if synchronous_commit not in _COMMIT_PROMISES:
        raise LedgerError(
            f"the store has synchronous_commit = {synchronous_commit}: a crash would lose what was spent."
            " Set synchronous_commit = on for the server, the database or the role"
        )
    if is_standby:
        raise LedgerUnavailable("the store is a standby and takes no writes")


async def migrate(connection: PostgresConnection) -> list[str]:
    """Bring the schema up to date, in one transaction; what was applied, as `0001_first`.

    Takes turns with other processes that migrate, and leaves those that run on an older schema undisturbed: migrations
    only add.

    Raises:
        LedgerError: a newer Spendfuse has written this store.
    """
    known = migrations("postgres")
    applied: list[str] = []
    await connection.run("BEGIN")
    try:
        await connection.rows(_LOCK_MIGRATIONS)
        if not await connection.only(_SELECT_SCHEMA_EXISTS):
            await connection.run(_CREATE_SCHEMA)
        newest: int = await connection.only(_SELECT_NEWEST_MIGRATION)
        if newest > known[-1][0]:
            raise LedgerError(
                f"the store has schema {newest}, this Spendfuse knows up to {known[-1][0]}:"
                " upgrade Spendfuse, or use another store"
            )
        for number, name, script in known:
            if number > newest:
                await connection.run(script)
                await connection.change(_INSERT_MIGRATION, number, name)
                applied.append(f"{number:04}_{name}")
        await connection.commit()
    except BaseException:
        if not connection.is_closed:
            with contextlib.suppress(ConnectionLost):
                await connection.run("ROLLBACK")
        raise
    return applied


@contextlib.contextmanager
def unavailable() -> Generator[None]:
    """Tell callers in the ledger's own words."""
    try:
        yield
    except (ConnectionLost, StartAgain) as error:
        raise LedgerUnavailable(f"the store is not usable: {error}") from error
    except TimeoutError:
        raise LedgerUnavailable("the store gave no answer in time") from None


@contextlib.contextmanager
def _sorted_errors() -> Generator[None]:
    try:
        yield
    except (asyncpg.TransactionRollbackError, asyncpg.UniqueViolationError) as error:
        raise StartAgain(str(error)) from error
    except _LOST as error:
        raise ConnectionLost(f"{type(error).__name__}: {error}") from error
    except asyncpg.InterfaceError as error:
        # What can't be encoded is the fault of an operation, everything else that of the connection.
        if isinstance(error, ValueError):
            raise
        raise ConnectionLost(f"{type(error).__name__}: {error}") from error


_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
