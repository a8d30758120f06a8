"""This process's copy of how breakers stand, which is all that a call has to ask."""

import contextlib
from collections.abc import Generator, Sequence

from spendfuse.core.breakers import CLOSED, Breaker, Passage, Phase, State, passage
from spendfuse.core.labels import Labels
from spendfuse.core.refusals import Deny, deny_open
from spendfuse.ledger.breakers import BreakerLine, BreakerStates, Key

Probing = tuple[tuple[Breaker, str], ...]
"""The breakers and subjects that a call may become the probe of."""


class BreakerCopy:
    """How breakers stood when the store was last heard of: by its `Follower`, or by this process's own operations."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self._refusing: list[Breaker] = []
        self._revision = -1
        self._ahead_ms = 0
        self._lines: dict[Key, BreakerLine] = {}
        """All that is not closed, also of breakers that the config does not have."""
        self._states: dict[Key, State] = {}
        self.is_calm = True
        """Nothing that refuses calls is open."""
        self._asked: set[Key] = set()
        self._closed: dict[Key, tuple[int, int]] = {}
        self.closings = 0
        """Grows whenever a breaker closes: an attempt that knows the same number has begun after all closings."""

    def configure(self, breakers: Sequence[Breaker]) -> None:
        """Ask these breakers from now on."""
        self._breakers = {one.name: one for one in breakers}
        self._refusing = [one for one in breakers if one.opens]
        self._find_states()

    @property
    def not_closed(self) -> list[tuple[Breaker, str, State]]:
        """All that is open, half-open or forced open now."""
        return [(self._breakers[name], subject, state) for (name, subject), state in self._states.items()]

    def store_ms(self, now_ms: int) -> int:
        """The store's time, by this process's."""
        return now_ms + self._ahead_ms

    def state_of(self, breaker: Breaker, subject: str) -> State:
        """How one stands; of those that are closed only that."""
        return self._states.get((breaker.name, subject), CLOSED)

    def closed_since_ms(self, key: Key) -> int:
        """Since when a breaker is closed, by the store; 0 for one that never was anything else."""
        return self._closed.get(key, (0, 0))[0]

    def closed_after(self, key: Key, closings: int) -> bool:
        """Whether it was closed after `closings` had been so many."""
        return self._closed.get(key, (0, 0))[1] > closings

    def take(self, states: BreakerStates, now_ms: int, *, is_whole: bool) -> list[Key]:
        """Take what the store says, of all breakers or of some; what has closed by that.

        Says nothing new where more is known already: the answers of an operation and of a read may overtake each other.
        """
        if states.revision < self._revision:
            return []
        self._revision = states.revision
        self._ahead_ms = states.now_ms - now_ms
        if is_whole:
            self._lines = {}
        closed: list[Key] = []
        for line in states.lines:
            key, state = line.key, line.state
            if state.phase is not Phase.CLOSED:
                self._lines[key] = line
                continue
            self._lines.pop(key, None)
            if state.since_ms > self.closed_since_ms(key):
                self.closings += 1
                self._closed[key] = (state.since_ms, self.closings)
                closed.append(key)
        self._find_states()
        return closed

    def _find_states(self) -> None:
        # One that is told apart by other labels now is another breaker.
        self._states = {
            key: line.state
            for key, line in self._lines.items()
            if line.breaker in self._breakers and self._breakers[line.breaker].each == line.each
        }
        self.is_calm = not any(self._breakers[name].opens for name, _ in self._states)

    def look(self, labels: Labels, now_ms: int, *, asks: Probing = ()) -> Deny | Probing:
        """Why a call may not go; or what it would be the probe of, mostly nothing.

        What another call of this process is about to become the probe of, blocks; `asks` is what this one is.
        """
        probing: list[tuple[Breaker, str]] = []
        store_ms = self.store_ms(now_ms)
        own = {(breaker.name, subject) for breaker, subject in asks}
        for breaker in self._refusing:
            subject = breaker.subject_of(labels)
            key = (breaker.name, subject)
            state = self._states.get(key)
            if state is None or not breaker.covers(labels):
                continue
            passes = passage(state, store_ms)
            if passes is Passage.BLOCKED or (passes is Passage.PROBE and key in self._asked and key not in own):
                return deny_open(breaker, subject, state, store_ms)
            if passes is Passage.PROBE:
                probing.append((breaker, subject))
        return tuple(probing)

    @contextlib.contextmanager
    def asking(self, probing: Probing) -> Generator[None]:
        """A call is about to become the probe of these: no other one of this process asks meanwhile."""
        keys = {(breaker.name, subject) for breaker, subject in probing}
        self._asked |= keys
        try:
            yield
        finally:
            self._asked -= keys
