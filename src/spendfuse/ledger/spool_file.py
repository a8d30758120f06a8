"""The files of a spool: each belongs to one process, which holds its kernel lock for as long as it lives.

A file whose lock can be had belongs to a process that died, and whoever has the lock takes it over. Only local file
systems are supported. Everything here blocks, and is called on a thread.

Failure policy: what can't be written is an `OSError`, and the file ends where it ended before. What can't be read is
put into a file beside (`.aside`), never dropped.
"""

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spendfuse.core.reservations import ReservationId
from spendfuse.ledger.spool_lines import Begun, LineInvalid, Spooled, decode, sealed, unsealed

_BLOCK_BYTES = 64 * 2**10
_VERSION = 1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it was read. `ends_at` is its offset behind it; `spooled` is None where it can't be read."""

    raw: bytes
    ends_at: int
    spooled: Spooled | None


class SpoolFile:
    """One locked file, written at its end and read from its head."""

    def __init__(self, path: Path, file: int, *, head: int, tail: int, is_own: bool) -> None:
        self.path = path
        self._file = file
        self._head = head
        self._tail = tail
        self._begins_at = head
        self.is_own = is_own
        """Whether this process has written it; else it is of one that died."""
        self.unfinished: frozenset[ReservationId] = frozenset()
        """In a file of a process that died: calls without a reservation whose end it never learned."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self._tail

    @property
    def is_exhausted(self) -> bool:
        """Whether all of it has been acknowledged."""
        return self._head >= self._tail

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines behind the others; on return they outlast the process and the machine.

        Raises:
            OSError: they don't; nothing was added.
        """
        data = b"".join(lines)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._tail + written)
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._tail)
            raise
        self._tail += len(data)

    def read(self) -> list[Line]:
        """Some of the lines that are not acknowledged yet, in order; at least one where there is any."""
        block = os.pread(self._file, min(_BLOCK_BYTES, self._tail - self._head), self._head)
        if b"\n" not in block:
            block = os.pread(self._file, self._tail - self._head, self._head)
        at = self._head
        lines: list[Line] = []
        for raw in _split(block):
            at += len(raw)
            if not raw.endswith(b"\n") and at < self._tail:
                break  # The rest of it is in the next block.
            lines.append(Line(raw, at, _decoded(raw)))
        return lines

    def acknowledge(self, ends_at: int) -> None:
        """Forget what stands before an offset."""
        self._head = max(self._head, ends_at)

    def set_aside(self, raws: Sequence[bytes]) -> None:
        """Put lines into the file beside, which has the same head, so that it can be tried again under a spool's name.

        Raises:
            OSError: they are not there.
        """
        head = os.pread(self._file, self._begins_at, 0)
        file = os.open(self.path.with_suffix(".aside"), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, (b"" if os.fstat(file).st_size else head) + b"".join(raws))
            os.fsync(file)
        finally:
            os.close(file)

    def learn_unfinished(self) -> None:
        """Find the calls that had begun and have no end, in a file that was taken over."""
        begun: set[ReservationId] = set()
        head = self._head
        while not self.is_exhausted:
            for line in self.read():
                self.acknowledge(line.ends_at)
                if isinstance(line.spooled, Begun):
                    begun.add(line.spooled.reservation_id)
                elif line.spooled is not None:
                    begun.discard(line.spooled.reservation_id)
        self._head = head
        self.unfinished = frozenset(begun)

    def remove(self) -> None:
        """Delete the file, and close it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give up the lock: whoever comes next takes the file over. Once is enough."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class SpoolFolder:
    """The folder of the files, which the processes of a host share, and of those for one store."""

    def __init__(self, path: Path, store: str) -> None:
        self._path = path
        self._store = store
        self._told: set[Path] = set()

    def prepare(self) -> None:
        """Have a folder that only this user can read.

        Raises:
            OSError: there can be none, or it can't be written to.
        """
        if not self._path.is_dir():
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(self._path.parent)
        if not os.access(self._path, os.W_OK | os.X_OK):
            raise PermissionError(f"{self._path} can't be written to")

    def create(self) -> SpoolFile:
        """A new file of this process.

        Raises:
            OSError: it can't be made.
        """
        self.prepare()
        while True:
            path = self._path / f"{os.getpid()}-{secrets.token_hex(4)}.spool"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if not _lock(file) or not _is_at(path, file):
                os.close(file)  # Somebody took it for one of a process that died.
                continue
            own = SpoolFile(path, file, head=0, tail=0, is_own=True)
            head = sealed({"spool": _VERSION, "store": self._store})
            try:
                own.append([head])
                _sync_folder(self._path)
            except OSError:
                own.remove()
                raise
            return SpoolFile(path, file, head=len(head), tail=len(head), is_own=True)

    def take_over(self) -> list[SpoolFile]:
        """The files of processes that died, the oldest first. They are this process's from now on.

        Raises:
            OSError: one can't be read.
        """
        found = [self._taken_over(path) for path in sorted(self._path.glob("*.spool"), key=_written_at_ns)]
        return [file for file in found if file is not None]

    def _taken_over(self, path: Path) -> SpoolFile | None:
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        taken = self._opened(path, file) if _lock(file) and _is_at(path, file) else None
        if taken is None:
            os.close(file)
            return None
        taken.learn_unfinished()
        _LOG.warning("spool_file_taken_over file=%s", path)
        return taken

    def _opened(self, path: Path, file: int) -> SpoolFile | None:
        """A file whose lock was had, unless it is empty, unreadable, or not of this store."""
        size = os.fstat(file).st_size
        first, end, _ = os.pread(file, _BLOCK_BYTES, 0).partition(b"\n")
        if not end and not any(first):
            path.unlink(missing_ok=True)  # Its process died before it had written anything.
            return None
        try:
            head = unsealed(first + end)
        except LineInvalid as error:
            _LOG.error("spool_file_set_aside file=%s bytes=%d error=%s", path, size, error)
            path.rename(path.with_suffix(".aside"))
            return None
        if head != {"spool": _VERSION, "store": self._store}:
            if path not in self._told:
                _LOG.error("spool_file_left file=%s bytes=%d reason='it is of %s'", path, size, head.get("store"))
                self._told.add(path)
            return None
        return SpoolFile(path, file, head=len(first) + 1, tail=size, is_own=False)


def _decoded(raw: bytes) -> Spooled | None:
    try:
        return decode(raw)
    except LineInvalid:
        return None


def _split(block: bytes) -> list[bytes]:
    """Lines by their line feeds only."""
    parts = block.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, file: int) -> bool:
    """Whether a path still leads to the open file: its former owner may have removed it before its lock was had."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _written_at_ns(path: Path) -> int:
    """When a file was written last; one that its owner has removed meanwhile comes first."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
