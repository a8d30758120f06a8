"""An event loop in which waiting takes no time: when nothing can run, its clock jumps to the next timer.

Everything runs in one thread and in one order, so a run repeats to the last step. What would go to a thread
(`asyncio.to_thread`) runs at once where it is called: time cannot jump past work that is under way. There is no I/O:
whoever waits for a socket here waits forever.
"""

import asyncio
import concurrent.futures
import math
from collections.abc import Callable
from typing import Any

from spendfuse.clock import FrozenClock

_NS_PER_S = 1_000_000_000
_RESOLUTION_S = 1e-9


class TimeStandsStill(RuntimeError):
    """Tasks wait, and no timer will ever wake any of them."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Moves a frozen clock, which nobody else may move while the loop runs."""

    def __init__(self, clock: FrozenClock) -> None:
        super().__init__()
        self._virtual = clock
        self._starts_at_ns = clock.now_ns()
        self._selector = _Jump(clock)
        # A timer is due within this; the clock goes by nanoseconds.
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Seconds since the loop was made: small numbers, so that a float holds their nanoseconds."""
        return (self._virtual.now_ns() - self._starts_at_ns) / _NS_PER_S

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call it now, whatever the executor."""
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to who asked for the work
            future.set_exception(error)
        return future

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing has to be woken: the loop never really waits."""


class _Jump:
    """What the loop waits in."""

    def __init__(self, clock: FrozenClock) -> None:
        self._clock = clock

    def select(self, timeout: float | None) -> list[object]:
        """Let so much time be over; no timeout means that the loop has no timer."""
        if timeout is None:
            raise TimeStandsStill("nothing is ready and no timer is set")
        if timeout > 0:
            self._clock.time_ns += math.ceil(timeout * _NS_PER_S)
        return []

    def close(self) -> None:
        """Nothing to close."""
