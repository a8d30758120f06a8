"""What a store keeps of breakers, what it is asked about them, and what it answers, whatever the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from spendfuse.core.breakers import NOTHING_COUNTED, Breaker, Counts, Phase, State
from spendfuse.ledger.spent import SpentLine

PROBE_LEASE_MS = 10_000
"""A probe of a process that is gone is waited for no longer than this; one that runs on is renewed."""

Key = tuple[str, str]
"""A breaker's name, and a subject."""


@dataclass(frozen=True, slots=True)
class BreakerLine:
    """How a breaker stands for one subject, by the labels `each`."""

    breaker: str
    subject: str
    each: tuple[str, ...]
    state: State

    @property
    def key(self) -> Key:
        return (self.breaker, self.subject)


@dataclass(frozen=True, slots=True)
class BreakerStates:
    """Breakers as they stand at `now_ms` of the store's clock. `revision` grows with every change of any of them."""

    revision: int
    now_ms: int
    lines: tuple[BreakerLine, ...]


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """One change of a state. `number` ascends in the order in which they were made."""

    number: int
    at_ms: int
    breaker: str
    subject: str
    each: tuple[str, ...]
    before: Phase
    after: Phase
    why: str
    who: str


@dataclass(frozen=True, slots=True)
class Attempts:
    """What attempts of a breaker's subject added up to in one process, which knew the breaker as closed since then as
    they began. Without any it only asks to be judged.

    `baseline` is what its counts are compared with, where the breaker looks at that: see `BreakerLedger.baseline`.
    """

    breaker: Breaker
    subject: str
    closed_since_ms: int = 0
    counts: Counts = NOTHING_COUNTED
    baseline: Counts = NOTHING_COUNTED

    @property
    def key(self) -> Key:
        return (self.breaker.name, self.subject)


@dataclass(frozen=True, slots=True)
class CountAttempts:
    """See `BreakerLedger.count_attempts`; the outcome are states, as of all operations here."""

    several: tuple[Attempts, ...]


@dataclass(frozen=True, slots=True)
class FollowSpent:
    """See `BreakerLedger.follow_spent`."""

    breakers: tuple[Breaker, ...]


@dataclass(frozen=True, slots=True)
class TakeProbe:
    """See `BreakerLedger.take_probe`."""

    several: tuple[tuple[Breaker, str], ...]
    probe_id: int


@dataclass(frozen=True, slots=True)
class RenewProbe:
    """See `BreakerLedger.renew_probe`."""

    several: tuple[tuple[Breaker, str], ...]
    probe_id: int


@dataclass(frozen=True, slots=True)
class EndProbe:
    """See `BreakerLedger.end_probe`."""

    breaker: Breaker
    subject: str
    probe_id: int
    succeeded: bool | None


@dataclass(frozen=True, slots=True)
class ForceBreaker:
    """See `BreakerLedger.force_breaker`."""

    breaker: Breaker
    subject: str
    is_open: bool
    why: str
    who: str


@dataclass(frozen=True, slots=True)
class PauseTarget:
    """See `BreakerLedger.pause_target`."""

    target: str
    ms: int
    why: str


BreakerOperation = CountAttempts | FollowSpent | TakeProbe | RenewProbe | EndProbe | ForceBreaker | PauseTarget


@dataclass(frozen=True, slots=True)
class CountRow:
    """Counts to add to a bucket, which is kept until an instant."""

    breaker: str
    subject: str
    bucket_ms: int
    until_ms: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state that takes the place of another. One that is not `logged` is no news to anybody."""

    line: BreakerLine
    before: State
    is_logged: bool = True


class BreakerStore(Protocol):
    """The rows that `breaking` reads and writes, under the store's lock and in one transaction."""

    async def states(self, keys: Sequence[Key]) -> Mapping[Key, State]:
        """The stored ones of these states."""
        ...

    async def states_of(self, breaker: str) -> Mapping[Key, State]:
        """All stored states of a breaker."""
        ...

    async def add_counts(self, rows: Sequence[CountRow], now_ms: int) -> None:
        """Add to buckets, and forget those whose time is over."""
        ...

    async def counts(self, windows: Sequence[tuple[str, str, int]]) -> Sequence[Counts]:
        """What the buckets of each breaker and subject add up to from an instant on."""
        ...

    async def clear_counts(self, key: Key) -> None:
        """Forget all buckets of a breaker's subject."""
        ...

    async def spent(self, now_ms: int) -> Sequence[SpentLine]:
        """The limits that are spent now."""
        ...

    async def write_state(self, change: StateChange, now_ms: int) -> None:
        """Store a state, and its change in the log."""
        ...

    async def grow_revision(self) -> None:
        """Tell all processes that states have changed."""
        ...

    async def revision(self) -> int:
        """The number that `grow_revision` grows."""
        ...


class BreakerLedger(Protocol):
    """What the ledger does about breakers. All processes see the same changes, by the store's clock."""

    async def count_attempts(self, several: Sequence[Attempts]) -> BreakerStates:
        """Add to what breakers have counted, and judge each by its window: how they stand then.

        Attempts that began before a breaker last closed do not count, nor do any while only a probe is waited for.
        """
        ...

    async def follow_spent(self, breakers: Sequence[Breaker]) -> BreakerStates:
        """Open breakers of limits where those are spent, and close them where they are so no longer: how they stand
        then."""
        ...

    async def take_probe(self, several: Sequence[tuple[Breaker, str]], *, probe_id: int) -> BreakerStates:
        """Make a call the probe of these breakers and subjects, of all or none: how they stand then. It is the probe of
        those that say its id, for `PROBE_LEASE_MS`; of each there is one at a time.
        """
        ...

    async def renew_probe(self, several: Sequence[tuple[Breaker, str]], *, probe_id: int) -> BreakerStates:
        """Say that a probe still runs, for another `PROBE_LEASE_MS`."""
        ...

    async def end_probe(
        self, breaker: Breaker, subject: str, *, probe_id: int, succeeded: bool | None
    ) -> BreakerStates:
        """Close a half-open breaker, or open it for another cooldown; with None, where the probe can't tell, let
        another be taken at once. Changes nothing where it is the probe no more.
        """
        ...

    async def force_breaker(
        self, breaker: Breaker, subject: str, *, is_open: bool, why: str, who: str
    ) -> BreakerStates:
        """Open a breaker by hand, so that only a hand closes it; or close it, whatever opened it."""
        ...

    async def pause_target(self, target: str, *, ms: int, why: str) -> BreakerStates:
        """Open `PAUSE` for a target, for so long from now; never shorter than it is open already."""
        ...

    async def breakers(self) -> BreakerStates:
        """All breakers that have ever opened, by name and subject."""
        ...

    async def breaker_changes(self, *, after: int = 0, newest: int | None = None) -> Sequence[BreakerChange]:
        """The log of breakers, the oldest first: what is above a number, or of that only the newest so many."""
        ...

    async def baseline(self, breaker: Breaker) -> Mapping[str, Counts]:
        """What is usual for a breaker's subjects, from the rollup of spend: see `baselines`."""
        ...
