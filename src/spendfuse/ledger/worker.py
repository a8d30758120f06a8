"""Where blocking work of the ledger runs: one thread that runs it in order, and answers with one call into the event
loop per piece of work; or, in a rehearsal, the event loop itself."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")


class Worker(Protocol):
    """Runs pieces of work, one after the other."""

    def submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run a piece of work; the future has what it returned or raised."""
        ...

    def stop(self) -> None:
        """No more work comes."""
        ...


class InlineWorker:
    """Runs work where it is submitted. For event loops of virtual time, in which a thread's work would take none."""

    def submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """See `Worker`."""
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - whatever it was belongs to who asked for the work
            future.set_exception(error)
        return future

    def stop(self) -> None:
        """See `Worker`."""


class WorkerThread:
    """A daemon, so that work which hangs in the kernel can't keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run `work` on the thread. Cancelling the future doesn't stop the work."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._work.put(lambda: _run_for(loop, future, work))
        return future

    def stop(self) -> None:
        """End the thread once the work submitted before is done. Doesn't wait for it."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _run_for(loop: asyncio.AbstractEventLoop, future: asyncio.Future[_T], work: Callable[[], _T]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whatever it was belongs to who asked for the work
        _call(loop, _set, future, future.set_exception, error)
    else:
        _call(loop, _set, future, future.set_result, result)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any) -> None:
    """Call into the loop; when it is closed, nobody awaits the answer any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, *args)


def _set(future: asyncio.Future[Any], setter: Callable[[Any], None], value: object) -> None:
    if not future.done():
        setter(value)
