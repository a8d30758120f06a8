"""Callers whose operation is under way, and those of them who wait for calls in flight to settle."""

import asyncio
import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from spendfuse.core.decisions import Refused
from spendfuse.ledger.operations import Operation, Outcome

WAITERS_MAX = 1_000
TRIES_PER_QUEUE_MAX = 64
"""So many of one queue are tried in one batch: whoever stands behind them has little to hope for from what is freed."""

QueueKey = tuple[str, str]
"""The identity of the limit that refused, and the subject."""


@dataclass(slots=True, eq=False)
class Pending:
    """An operation and the caller who awaits its outcome. `deadline` is on the event loop's clock.

    `wait_s` is how long a reserve may still wait; 0 once it has waited, and for every other verb.
    """

    operation: Operation
    future: asyncio.Future[Outcome]
    deadline: float
    wait_s: float = 0.0
    number: int = 0
    queue: QueueKey | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody awaits the outcome any more."""
        return self.future.done()


class WaitingRoom:
    """One queue for each balance that refused, each in the order in which its callers came."""

    def __init__(self) -> None:
        self._queues: dict[QueueKey, list[Pending]] = {}
        self._size = 0
        self._numbers = 0

    def __len__(self) -> int:
        return self._size

    def admit(self, pending: Pending, refused: Refused) -> bool:
        """Let a refused caller wait for the first balance that refused it; False when the room is full.

        A caller who waits already, and is now refused by another balance, moves there and keeps its rank.
        """
        reason = refused.reasons[0]
        key = (reason.limit.identity, reason.subject)
        if pending.queue == key:
            return True
        if pending.queue is not None:
            self.dismiss(pending)
        elif self._size >= WAITERS_MAX:
            return False
        else:
            self._numbers += 1
            pending.number = self._numbers
        pending.queue = key
        bisect.insort(self._queues.setdefault(key, []), pending, key=lambda one: one.number)
        self._size += 1
        return True

    def dismiss(self, pending: Pending) -> None:
        """Take a caller out; nothing happens to one who does not wait."""
        if pending.queue is None:
            return
        queue = self._queues[pending.queue]
        queue.remove(pending)
        if not queue:
            del self._queues[pending.queue]
        pending.queue = None
        self._size -= 1

    def next_tries(self) -> Iterator[Pending]:
        """Who is tried in the next batch: of every queue its head first, then the others in order."""
        for queue in self._queues.values():
            yield from queue[:TRIES_PER_QUEUE_MAX]

    def empty(self) -> list[Pending]:
        """Take everybody out."""
        everybody = [pending for queue in self._queues.values() for pending in queue]
        self._queues.clear()
        self._size = 0
        for pending in everybody:
            pending.queue = None
        return everybody
