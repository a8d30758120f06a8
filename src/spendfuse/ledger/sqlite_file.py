"""One SQLite database file: its connections, its lock, its owners' locks and its schema.

Every commit and every checkpoint happens under a kernel lock on `<db>.lock`: SQLite's own busy handler starves a
process for hundreds of milliseconds, and versions before 3.51.3 can lose a WAL reset between several checkpointers.
Only local file systems are supported, where `flock` ends with its process.

Failure policy: closed. What the file system or SQLite refuses (locked, full, read-only, corrupt) is
`LedgerUnavailable` with the reason; a broken constraint is not, and is left to the caller.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from types import TracebackType

from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.ledger.statements import Migration, migrations, split_script

_WAL_RACE_FIXED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def sqlite_has_wal_race(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite can lose a WAL reset when several connections write and checkpoint at once.

    3.7.0 to 3.51.2 can; 3.44.6 and 3.50.7 carry the fix. Spendfuse commits and checkpoints under one lock, so that only
    other programs that write to the file are affected.
    """
    if version < (3, 7, 0) or version >= _WAL_RACE_FIXED[-1]:
        return False
    return not any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_RACE_FIXED)


@contextlib.contextmanager
def store_errors() -> Generator[None]:
    """Turn what the file system or SQLite refuses into `LedgerUnavailable`."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError):
        raise
    except (sqlite3.DatabaseError, OSError) as error:
        raise LedgerUnavailable(f"the store is not usable: {error}") from error


class FileLock:
    """An exclusive kernel lock on a side file; waits as long as it takes, so the event loop must bound the wait."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)


class OwnerFiles:
    """One locked file for each living owner: the kernel releases the lock when the process dies, however it dies."""

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}.owners")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._own: int | None = None

    def claim(self, owner_id: int) -> None:
        """Show that this owner lives."""
        self.release()
        self._own = self._open(owner_id)
        fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give up the claim."""
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def is_gone(self, owner_id: int) -> bool:
        """Whether the process of another owner has ended."""
        file = self._open(owner_id)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True

    def forget(self, owner_id: int) -> None:
        """Remove the file of an owner that is gone."""
        (self._folder / str(owner_id)).unlink(missing_ok=True)

    def _open(self, owner_id: int) -> int:
        return os.open(self._folder / str(owner_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def lock_path(database: Path) -> Path:
    """The side file whose lock every commit holds."""
    return database.with_name(f"{database.name}.lock")


def connect_writer(path: Path, *, is_durable: bool = True) -> sqlite3.Connection:
    """The connection that commits; to be opened under the file's lock. What is not durable never waits for the disk."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = _connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL" if is_durable else "PRAGMA synchronous=OFF")
    connection.execute("PRAGMA wal_autocheckpoint=4000")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can neither write nor checkpoint."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # Opened, used and closed by one thread each; only the last close may come from another one.
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """A write transaction; rolled back whatever goes wrong."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrate(connection: sqlite3.Connection, now_ms: int, known: list[Migration] | None = None) -> list[str]:
    """Bring the schema up to date, within the caller's transaction; what was applied, as `0001_first`.

    Raises:
        LedgerError: a newer Spendfuse has written this store.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migration"
        " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_ms INTEGER NOT NULL) STRICT"
    )
    applied: int = connection.execute("SELECT coalesce(max(number), 0) FROM migration").fetchone()[0]
    known = migrations("sqlite") if known is None else known
    newest = known[-1][0]
    done: list[str] = []
    if applied > newest:
        raise LedgerError(
            f"the store has schema {applied}, this Spendfuse knows up to {newest}:"
            " upgrade Spendfuse, or use another store"
        )
    for number, name, script in known:
        if number > applied:
            for statement in split_script(script):
                connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, ?, ?)", (number, name, now_ms))
            done.append(f"{number:04}_{name}")
    return done
