"""`serve`: the server as one command, in this process or as a parent with worker processes.

Workers are forked, not spawned. The parent has no event loop and no threads, so a fork is safe; a worker then starts
in milliseconds, shares the pages of what the parent has imported, and the app factory may be any closure. Each worker
opens its own app after the fork, so no lock, socket or connection of an app is ever shared.

Parent and worker share a socket pair. The worker says on it that it accepts, or why it could not start; the parent
tells it to stop or to cut. Its end of file tells either side that the other is gone, whatever killed it. The parent
stops its workers this way rather than by signal, because a terminal or a process manager signals the whole group and
a worker could not tell the second request to end from the first.

Failure policy: a worker that ends without having accepted, before all have once accepted, ends the command with its
reason; it would fail again. Any other death is followed by a restart, with growing pauses, for as long as it takes.
"""

import asyncio
import contextlib
import functools
import logging
import math
import multiprocessing
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any

import uvloop

from spendfuse.server.protocol import ServerLimits
from spendfuse.server.run import AppFactory, StartFailed, StopSwitch, listen, run_app

logger = logging.getLogger("spendfuse.server")

_READY = b"R"
_FAILED = b"F"
_STOP = b"S"
_CUT = b"C"

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOP_SIGNALS, signal.SIGHUP)
_OPEN_FILES_WANTED = 65_536
_REASON_BYTES_MAX = 8_192
_PAUSE_MIN_S = 0.1
_PAUSE_MAX_S = 30.0
_LIVED_WELL_S = 60.0


def serve(
    factory: AppFactory,
    *,
    host: str = "127.0.0.1",
    port: int,
    workers: int = 1,
    limits: ServerLimits | None = None,
    on_started: Callable[[str, int], None] | None = None,
    on_reload: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal cuts what is left.

    Runs in the main thread. With several workers no other thread may have been started before. `on_started` gets host
    and actual port once connections are accepted; `on_reload` is what SIGHUP calls (without it: logged, ignored). Both
    run in this process.

    Raises:
        StartFailed: it never came to accept calls; the message says why.
    """
    limits = limits or ServerLimits()
    _raise_open_files_limit()
    sockets = listen(host, port)
    actual_port: int = sockets[0].getsockname()[1]
    started = functools.partial(on_started or _log_started, host, actual_port)
    reload = on_reload or _log_reload_ignored
    if workers == 1:
        _run(_serve_here(factory, sockets, limits=limits, on_accepting=started, on_reload=reload))
    else:
        Supervisor(factory, sockets, workers=workers, limits=limits, on_accepting=started, on_reload=reload).run()


def _log_started(host: str, port: int) -> None:
    logger.info("server_started host=%s port=%d", host, port)


def _log_reload_ignored() -> None:
    logger.warning("reload_ignored signal=SIGHUP")


def _raise_open_files_limit() -> None:
    """A stream takes two files, and the usual soft limit is 256 to 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES_WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError) as exc:
        logger.warning("open_files_limit_kept soft=%d wanted=%d reason=%s", soft, wanted, exc)


def _run(serving: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)


async def _serve_here(
    factory: AppFactory,
    sockets: list[socket.socket],
    *,
    limits: ServerLimits,
    on_accepting: Callable[[], None],
    on_reload: Callable[[], None],
) -> None:
    switch = StopSwitch()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, switch.press)
    loop.add_signal_handler(signal.SIGHUP, on_reload)
    await run_app(factory, sockets, limits=limits, switch=switch, on_accepting=on_accepting)


# In a worker process


async def _serve_as_worker(
    factory: AppFactory, sockets: list[socket.socket], channel: socket.socket, *, limits: ServerLimits
) -> None:
    switch = StopSwitch()
    loop = asyncio.get_running_loop()
    # One worker may be asked to end by itself; unlike the parent's, its second signal means no more than the first.
    loop.add_signal_handler(signal.SIGTERM, switch.stop)
    loop.add_reader(channel, _obey, channel, switch)
    try:
        await run_app(
            factory, sockets, limits=limits, switch=switch, on_accepting=functools.partial(_tell, channel, _READY)
        )
    except StartFailed as exc:
        _tell(channel, _FAILED + str(exc).encode()[:_REASON_BYTES_MAX])
        raise SystemExit(1) from None
    finally:
        loop.remove_reader(channel)


def _obey(channel: socket.socket, switch: StopSwitch) -> None:
    orders = _read(channel)
    if orders == b"":
        asyncio.get_running_loop().remove_reader(channel)
        logger.warning("parent_gone")
    if _CUT in orders:
        switch.cut()
    else:
        switch.stop()


def _tell(channel: socket.socket, message: bytes) -> None:
    # The other side may be gone, which its end of file tells already.
    with contextlib.suppress(OSError):
        channel.sendall(message)


def _read(channel: socket.socket) -> bytes:
    try:
        return channel.recv(65_536)
    except ConnectionError:
        return b""


# In the parent


@dataclass(slots=True)
class _Worker:
    process: ForkProcess
    channel: socket.socket
    deaths_before: int
    started_at: float = field(default_factory=time.monotonic)
    said: bytes = b""

    @property
    def accepts(self) -> bool:
        return self.said == _READY


class Supervisor:
    """The parent: keeps `workers` processes serving until a signal, then sees them drain and ends what does not."""

    def __init__(
        self,
        factory: AppFactory,
        sockets: list[socket.socket],
        *,
        workers: int,
        limits: ServerLimits,
        on_accepting: Callable[[], None],
        on_reload: Callable[[], None],
    ) -> None:
        self._factory = factory
        self._sockets = sockets
        self._limits = limits
        self._on_accepting = on_accepting
        self._on_reload = on_reload
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._restarts: list[tuple[float, int]] = [(0.0, 0)] * workers
        """When to start a worker, and how many deaths in short succession it follows."""
        self._missing = workers
        """Workers that have never accepted; at zero the start has succeeded."""
        self._kill_at = math.inf
        self._started = False
        self._stopping = False
        self._failure: str | None = None

    def run(self) -> None:
        """Return when every worker has ended after a signal.

        Raises:
            StartFailed: a worker could not start.
        """
        with _signals() as woken:
            self._selector.register(woken, selectors.EVENT_READ, None)
            try:
                while self._workers or not self._stopping:
                    self._start_due()
                    self._wait(woken)
                    self._kill_late()
            finally:
                self._kill_all()
                self._selector.close()
        if self._failure is not None:
            raise StartFailed(self._failure)

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [restart for restart in self._restarts if restart[0] <= now]
        self._restarts = [restart for restart in self._restarts if restart[0] > now]
        for _, deaths in due:
            self._start(deaths)

    def _start(self, deaths_before: int) -> None:
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("fork").Process(target=self._be_worker, args=(ours, theirs))
        # A signal to the child before it has its own handlers would pass for one to the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        worker = _Worker(process, ours, deaths_before)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _be_worker(self, parents_end: socket.socket, channel: socket.socket) -> None:
        """The whole life of a forked process."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        # An end held open here would hide the parent's death from the worker at its other side.
        parents_end.close()
        for sibling in self._workers:
            sibling.channel.close()
        _run(_serve_as_worker(self._factory, self._sockets, channel, limits=self._limits))

    def _wait(self, woken: socket.socket) -> None:
        wake_at = min([self._kill_at, *(at for at, _ in self._restarts)])
        timeout_s = None if wake_at == math.inf else max(0.0, wake_at - time.monotonic())
        for key, _ in self._selector.select(timeout_s):
            worker: _Worker | None = key.data
            if worker is not None:
                self._hear(worker)
                continue
            for number in woken.recv(64):
                self._on_signal(number)

    def _hear(self, worker: _Worker) -> None:
        words = _read(worker.channel)
        if words == b"":
            self._bury(worker)
            return
        worker.said += words
        if not worker.accepts or self._stopping:
            return
        if not self._started:
            self._started = True
            self._on_accepting()
        self._missing = max(0, self._missing - 1)

    def _bury(self, worker: _Worker) -> None:
        """Take leave of a worker whose channel ended, and arrange for its successor."""
        self._selector.unregister(worker.channel)
        worker.channel.close()
        worker.process.join(self._limits.close_s)
        worker.process.kill()
        worker.process.join()
        self._workers.remove(worker)
        if self._stopping:
            return
        if self._missing and not worker.accepts:
            self._failure = _reason(worker)
            self._stop()
            return
        lived_well = time.monotonic() - worker.started_at >= _LIVED_WELL_S
        deaths = 0 if lived_well else worker.deaths_before
        pause_s = min(_PAUSE_MIN_S * 2 ** min(deaths, 16), _PAUSE_MAX_S)
        logger.error("worker_ended pid=%s reason=%r restart_in_s=%s", worker.process.pid, _reason(worker), pause_s)
        self._restarts.append((time.monotonic() + pause_s, deaths + 1))

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._on_reload()
        elif self._stopping:
            self._cut()
        else:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._restarts.clear()
        for sock in self._sockets:
            sock.close()
        for worker in self._workers:
            _tell(worker.channel, _STOP)
        self._kill_at = time.monotonic() + self._limits.drain_s + self._grace_s

    def _cut(self) -> None:
        for worker in self._workers:
            _tell(worker.channel, _CUT)
        self._kill_at = min(self._kill_at, time.monotonic() + self._grace_s)

    @property
    def _grace_s(self) -> float:
        """What a worker takes at most once its drain is over: cancelled calls, then the app."""
        return 2 * self._limits.close_s + 0.5

    def _kill_late(self) -> None:
        if time.monotonic() >= self._kill_at:
            self._kill_at = math.inf
            self._kill_all()

    def _kill_all(self) -> None:
        for worker in self._workers:
            logger.error("worker_killed pid=%s", worker.process.pid)
            worker.process.kill()


def _reason(worker: _Worker) -> str:
    if worker.said.startswith(_FAILED):
        return worker.said[len(_FAILED) :].decode(errors="replace")
    code = worker.process.exitcode
    ending = f"exit code {code}" if code is None or code >= 0 else f"signal {-code}"
    return f"a worker ended by itself ({ending})"


@contextlib.contextmanager
def _signals() -> Generator[socket.socket]:
    """Signals as bytes, each the signal's number, on the socket; the former handlers are put back at the end."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    former = {number: signal.signal(number, _only_wake) for number in _SIGNALS}
    former_fd = signal.set_wakeup_fd(writing.fileno())
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(former_fd)
        for number, handler in former.items():
            signal.signal(number, handler)
        reading.close()
        writing.close()


def _only_wake(number: int, frame: FrameType | None) -> None:
    """A signal needs a Python handler for its number to reach the wakeup file."""
