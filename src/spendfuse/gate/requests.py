"""What the gate is handed: an authenticated request, and a way to answer it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from spendfuse.core.labels import Labels
from spendfuse.core.subjects import NEW_SUBJECTS_PER_HOUR
from spendfuse.wire.dialect import Answer, Dialect


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a key authenticates. Its labels beat whatever a request claims; `key` is the key's stable name."""

    key: str
    labels: Labels = field(default_factory=dict[str, str])
    labels_from: frozenset[str] = frozenset({"headers", "body"})
    new_subjects_per_hour: int = NEW_SUBJECTS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole. `claimed` are the labels of its headers; `ip` is the client's address."""

    dialect: Dialect
    caller: Caller
    claimed: Labels
    ip: str
    headers: Mapping[bytes, bytes] = field(repr=False)
    body: bytes = field(repr=False)


class Downstream(Protocol):
    """The way back to the client. Awaiting `send` is the back-pressure: it returns when the client can take more."""

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer."""
        ...

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        """Begin a streamed answer."""
        ...

    async def send(self, chunk: bytes) -> None:
        """Go on with it."""
        ...

    async def finish(self) -> None:
        """End it."""
        ...

    async def abort(self) -> None:
        """Break the connection: the client must not take what it has for a whole answer."""
        ...
