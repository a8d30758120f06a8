"""The only place that asks the system for the time."""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Where time enters."""

    def now_ns(self) -> int:
        """Wall-clock time in nanoseconds since the epoch: windows, deadlines, ids."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that only ever grow: elapsed time and waiting."""
        ...


class SystemClock:
    """The host's clock."""

    def now_ns(self) -> int:
        """See `Clock`."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()


@dataclass
class FrozenClock:
    """A clock that moves only when told, both hands together."""

    time_ns: int

    def now_ns(self) -> int:
        """See `Clock`."""
        return self.time_ns

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return self.time_ns / 1e9

    def advance(self, *, ms: int) -> None:
        """Move forward."""
        self.time_ns += ms * 1_000_000
