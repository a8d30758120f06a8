"""An event loop that runs what is ready when it is told to and then stands still: one for each simulated process."""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from spendfuse.clock import FrozenClock

CALLBACKS_MAX = 200_000
"""More than any step needs: a task that goes round in circles while time stands still is a defect."""

TASKS_KEPT_MAX = 500
"""Beyond it those that are done are forgotten."""


class SteppedLoop(asyncio.AbstractEventLoop):
    """No I/O, no threads: what would run in one runs at once. Timers follow the frozen clock.

    `failures` has what no task handled; a simulation ends when there is any.
    """

    def __init__(self, clock: FrozenClock) -> None:
        self._clock = clock
        self._starts_at_ns = clock.now_ns()
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._tasks: list[asyncio.Task[Any]] = []
        self.failures: list[str] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing can happen before time moves or somebody else acts."""
        return not self._ready and not self._is_due()

    def run(self, callbacks_max: int | None = None) -> None:
        """Run until it is idle, or so many callbacks."""
        if self.is_idle:
            return
        ready = self._ready
        asyncio._set_running_loop(self)
        try:
            for _ in range(CALLBACKS_MAX if callbacks_max is None else callbacks_max):
                while self._is_due():
                    ready.append(heapq.heappop(self._timers)[2])
                if not ready:
                    return
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
        if callbacks_max is None:
            self.failures.append("a task goes round in circles")

    def die(self) -> None:
        """End every task as the death of its process would: nothing it does from now on may reach anyone."""
        # Their own list, as a set of tasks has another order in each run.
        while tasks := [one for one in self._tasks if not one.done()]:
            for task in tasks:
                task.cancel()
            self.run()
        self._tasks.clear()
        self._timers.clear()

    def _is_due(self) -> bool:
        timers = self._timers
        # A nanosecond more, as times are rounded.
        return bool(timers) and timers[0][0] <= self.time() + 1e-9

    def time(self) -> float:
        return (self._clock.now_ns() - self._starts_at_ns) / 1e9

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over once it is due."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        if len(self._tasks) > TASKS_KEPT_MAX:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """In this loop, at its next turn."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it belongs to who asked for the work
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
