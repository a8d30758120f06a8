"""When the tokens of one answer come into being.

Generation is a function of time, not of what was sent: a provider goes on
producing (and billing) while a slow client reads, so the bill can say at any
moment what a call has generated.
"""

import asyncio
import math
from dataclasses import dataclass

from spendfuse.clock import Clock


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on both clocks: seconds since the epoch for records, monotonic seconds for the pace."""

    epoch_s: float
    monotonic_s: float


def now_of(clock: Clock) -> Now:
    return Now(clock.now_ns() / 1e9, clock.monotonic_s())


@dataclass(frozen=True, slots=True)
class Pace:
    """One choice's timeline; times are monotonic seconds. A start of infinity never comes."""

    starts_at_s: float
    total_tokens: int
    chunk_tokens: int
    chunk_interval_s: float

    def generated(self, now_s: float) -> int:
        """Tokens that exist at `now_s`: the first chunk at the start, one more each interval."""
        if now_s < self.starts_at_s:
            return 0
        if self.chunk_interval_s == 0:
            return self.total_tokens
        chunks = int((now_s - self.starts_at_s) / self.chunk_interval_s) + 1
        return min(chunks * self.chunk_tokens, self.total_tokens)

    def due_at_s(self, token: int) -> float:
        """When the token with this index (from 0) exists."""
        return self.starts_at_s + token // self.chunk_tokens * self.chunk_interval_s

    @property
    def ends_at_s(self) -> float:
        return self.due_at_s(max(self.total_tokens - 1, 0))


async def sleep_until(at_s: float, clock: Clock) -> None:
    """Wait for a monotonic moment; infinity waits until cancelled."""
    if math.isinf(at_s):
        await asyncio.get_running_loop().create_future()
    delay_s = at_s - clock.monotonic_s()
    if delay_s > 0:
        await asyncio.sleep(delay_s)
