"""`serve`: the server as one command, in this process or as a parent with worker processes.

Workers are forked, not spawned. The parent has no event loop and no threads, so a fork is safe; a worker then starts
in milliseconds, shares the pages of what the parent has imported, and the app factory may be any closure. Each worker
opens its own app after the fork, so no lock, socket or connection of an app is ever shared.

Parent and worker share a `channel`. The worker says on it that it accepts, or why it could not start; the parent tells
it to stop or to cut, and gives it the newest document to follow. The parent stops its workers this way rather than by
signal, because a terminal or a process manager signals the whole group and a worker could not tell the second request
to end from the first.

A reload belongs to the parent alone: it reads and validates the new document once and offers it to all workers that
serve. With the first that follows, it is the one that rules, also for workers yet to be forked. The next reload begins
once every worker has answered to the last one, so that none puts an older document into force behind a newer.

Failure policy: a worker that ends without having accepted, before all have once accepted, ends the command with its
reason; it would fail again. Any other death is followed by a restart, with growing pauses, for as long as it takes. A
document that no worker can follow is dropped, and all go on as before. Where some can, one that can't drains, and one
that does not answer is killed; either way another takes its place with the new document at once, so that no two configs
are served for long.
"""

import asyncio
import functools
import logging
import math
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from spendfuse.server.channel import Frame, Word
from spendfuse.server.forking import SIGNALS, STOP_SIGNALS, Worker, fork_worker
from spendfuse.server.protocol import ServerLimits
from spendfuse.server.reloading import OwnReloads, ReadDocument, log_ignored, log_reloaded, read_anew
from spendfuse.server.run import AppFactory, StartFailed, StopSwitch, listen, run_app, run_loop
from spendfuse.server.signals import CaughtSignals, caught_signals
from spendfuse.server.worker import serve_as_worker

logger = logging.getLogger("spendfuse.server")

_OPEN_FILES_WANTED = 65_536
_PAUSE_MIN_S = 0.1
_PAUSE_MAX_S = 30.0
_LIVED_WELL_S = 60.0
_RELOAD_S = 5.0


def serve(
    factory: AppFactory,
    *,
    document: str,
    read_document: ReadDocument,
    host: str = "127.0.0.1",
    port: int,
    workers: int = 1,
    limits: ServerLimits | None = None,
    on_started: Callable[[str, int], None] | None = None,
    reload_s: float = _RELOAD_S,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal cuts what is left.

    Runs in the main thread. With several workers no other thread may have been started before. `on_started` gets host
    and actual port once connections are accepted. Each app opens with the document; at SIGHUP `read_document` makes the
    next one of it, which every app takes within `reload_s`. Both run in this process.

    Raises:
        StartFailed: it never came to accept calls; the message says why.
    """
    limits = limits or ServerLimits()
    _raise_open_files_limit()
    sockets = listen(host, port)
    actual_port: int = sockets[0].getsockname()[1]
    started = functools.partial(on_started or _log_started, host, actual_port)
    served = _Served(factory, sockets, limits, read_document, reload_s)
    if workers == 1:
        run_loop(_serve_here(served, document, on_accepting=started))
    else:
        Supervisor(served, document, workers=workers, on_accepting=started).run()


@dataclass(frozen=True, slots=True)
class _Served:
    """What is served, and how, in every process of a server."""

    factory: AppFactory
    sockets: list[socket.socket]
    limits: ServerLimits
    read_document: ReadDocument
    reload_s: float


def _log_started(host: str, port: int) -> None:
    logger.info("server_started host=%s port=%d", host, port)


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


async def _serve_here(served: _Served, document: str, *, on_accepting: Callable[[], None]) -> None:
    switch = StopSwitch()
    reloads = OwnReloads(served.read_document, document, switch=switch, within_s=served.reload_s)
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, switch.press)
    loop.add_signal_handler(signal.SIGHUP, reloads.ask)
    await run_app(
        served.factory,
        served.sockets,
        document=document,
        limits=served.limits,
        switch=switch,
        on_accepting=on_accepting,
        beside=reloads.run,
    )


# In the parent


@dataclass(frozen=True, slots=True)
class _Document:
    """A document that workers follow; 0 is the number of the first."""

    number: int
    text: str


class Supervisor:
    """The parent: keeps `workers` processes serving until a signal, then sees them drain and ends what does not."""

    def __init__(self, served: _Served, document: str, *, workers: int, on_accepting: Callable[[], None]) -> None:
        self._served = served
        self._limits = served.limits
        self._document = _Document(0, document)
        """What workers are forked with, and have to follow."""
        self._offered: _Document | None = None
        """What is to take its place, and no worker follows yet."""
        self._documents = 0
        """How many have been read in place of the first."""
        self._all_follow = 0
        """The number of the document of which was told that it has reached all."""
        self._reload_asked = False
        self._on_accepting = on_accepting
        self._selector = selectors.DefaultSelector()
        self._count = workers
        self._workers: list[Worker] = []
        self._restarts: list[tuple[float, int]] = [(0.0, 0)] * workers
        """When to start a worker, and how many deaths in short succession it follows."""
        self._missing = workers
        """Workers that have never accepted; at zero the start has succeeded."""
        self._started = False
        self._stopping = False
        self._failure: str | None = None

    def run(self) -> None:
        """Return when every worker has ended after a signal.

        Raises:
            StartFailed: a worker could not start.
        """
        with caught_signals(SIGNALS) as signals:
            self._selector.register(signals, selectors.EVENT_READ, None)
            try:
                while self._workers or not self._stopping:
                    self._start_due()
                    self._wait(signals)
                    self._kill_late()
                    self._reload_next()
            finally:
                for worker in self._workers:
                    worker.kill()
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
        served = self._served
        serve_it = functools.partial(
            serve_as_worker,
            served.factory,
            served.sockets,
            document=self._document.text,
            limits=served.limits,
            reload_s=served.reload_s,
        )
        worker = fork_worker(serve_it, self._workers, follows=self._document.number, deaths=deaths_before)
        self._workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _wait(self, signals: CaughtSignals) -> None:
        wake_at = min([*(one.kill_at for one in self._workers), *(at for at, _ in self._restarts)], default=math.inf)
        timeout_s = None if wake_at == math.inf else max(0.0, wake_at - time.monotonic())
        for key, event in self._selector.select(timeout_s):
            worker: Worker | None = key.data
            if worker is None:
                self._heed(signals.take())
                continue
            if event & selectors.EVENT_WRITE:
                worker.channel.flush()
                self._watch(worker)
            if event & selectors.EVENT_READ:
                self._hear(worker)

    def _tell(self, worker: Worker, word: Word, text: str = "") -> None:
        worker.channel.send(word, text)
        self._watch(worker)

    def _watch(self, worker: Worker) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.channel.has_unsent else 0)
        self._selector.modify(worker.channel, events, worker)

    def _hear(self, worker: Worker) -> None:
        frames = worker.channel.receive()
        if frames is None:
            self._bury(worker)
            return
        for frame in frames:
            self._take_in(worker, frame)

    def _take_in(self, worker: Worker, frame: Frame) -> None:
        match frame.word:
            case Word.ACCEPTS:
                worker.accepts = True
                if not self._stopping:
                    self._count_in()
            case Word.START_FAILED:
                worker.failure = frame.text
            case Word.FOLLOWS if worker.asked is not None:
                worker.follows = worker.asked
                self._note_answer(worker)
                self._take_offered()
            case Word.CANNOT_FOLLOW if worker.asked is not None:
                logger.error("reload_failed pid=%s reason=%r", worker.pid, frame.text)
                worker.refused = worker.asked
                self._note_answer(worker)
                self._replace_refusing()
            case _:
                logger.error("answer_unknown pid=%s word=%s", worker.pid, frame.word.name)
        self._give(worker)
        self._tell_if_all_follow()

    def _count_in(self) -> None:
        if not self._started:
            self._started = True
            self._on_accepting()
        self._missing = max(0, self._missing - 1)

    def _bury(self, worker: Worker) -> None:
        """Take leave of a worker whose channel ended, and arrange for its successor."""
        self._selector.unregister(worker.channel)
        worker.end(self._limits.close_s)
        self._workers.remove(worker)
        if self._stopping or worker.leaves:
            return
        if self._missing and not worker.accepts:
            self._failure = worker.reason
            self._stop()
            return
        lived_well = time.monotonic() - worker.started_at >= _LIVED_WELL_S
        deaths = 0 if lived_well else worker.deaths_before
        pause_s = min(_PAUSE_MIN_S * 2 ** min(deaths, 16), _PAUSE_MAX_S)
        logger.error("worker_ended pid=%s reason=%r restart_in_s=%s", worker.pid, worker.reason, pause_s)
        self._restarts.append((time.monotonic() + pause_s, deaths + 1))

    def _heed(self, numbers: list[int]) -> None:
        for number in numbers:
            if number == signal.SIGHUP:
                continue
            if self._stopping:
                self._cut()
            else:
                self._stop()
        if signal.SIGHUP in numbers:
            self._reload_asked = not self._stopping
            if self._stopping:
                log_ignored()

    # A reload

    def _reload_next(self) -> None:
        """Once all have answered to the last document, begin the reload that was asked for since, however often."""
        if self._stopping or any(one.asked is not None for one in self._workers):
            return
        if self._offered is not None:
            logger.error("config_kept reason='no worker could follow the new one'")
            self._offered = None
        if not self._reload_asked:
            return
        self._reload_asked = False
        newer = read_anew(self._served.read_document, self._document.text)
        if newer is None:
            return
        self._documents += 1
        self._offered = _Document(self._documents, newer)
        if not any(one.is_free for one in self._workers):
            # Nobody serves another: what keeps workers from starting may be mended by it.
            self._take_offered()
        for worker in self._workers:
            self._give(worker)

    def _give(self, worker: Worker) -> None:
        """Give a worker the newest document, unless it has that, still starts, or has yet to answer to another."""
        newest = self._offered or self._document
        if self._stopping or not worker.is_free or newest.number in (worker.follows, worker.refused):
            return
        worker.asked = newest.number
        # Its own bound comes first, if it can heed it; so calls in flight are cut only where nothing else is left.
        worker.kill_at = time.monotonic() + 2 * self._served.reload_s
        self._tell(worker, Word.FOLLOW, newest.text)

    def _note_answer(self, worker: Worker) -> None:
        worker.asked = None
        if not self._stopping:
            worker.kill_at = math.inf

    def _take_offered(self) -> None:
        """Let the offered document be the one that rules."""
        if self._offered is None:
            return
        self._document, self._offered = self._offered, None
        self._restarts = [(0.0, 0) for _ in self._restarts]
        self._replace_refusing()

    def _replace_refusing(self) -> None:
        """Let workers that can't follow the document that rules drain, and start those that take their place."""
        for worker in self._workers:
            if self._stopping or worker.leaves or worker.refused != self._document.number:
                continue
            worker.leaves = True
            worker.kill_at = time.monotonic() + self._limits.drain_s + self._grace_s
            self._tell(worker, Word.STOP)
            self._restarts.append((0.0, 0))

    def _tell_if_all_follow(self) -> None:
        number = self._document.number
        following = sum(one.serves(number) for one in self._workers)
        if self._all_follow < number and following == self._count:
            self._all_follow = number
            log_reloaded(following)

    # The end

    def _stop(self) -> None:
        self._stopping = True
        self._restarts.clear()
        for sock in self._served.sockets:
            sock.close()
        kill_at = time.monotonic() + self._limits.drain_s + self._grace_s
        for worker in self._workers:
            worker.kill_at = min(worker.kill_at, kill_at) if worker.leaves else kill_at
            self._tell(worker, Word.STOP)

    def _cut(self) -> None:
        kill_at = time.monotonic() + self._grace_s
        for worker in self._workers:
            worker.kill_at = min(worker.kill_at, kill_at)
            self._tell(worker, Word.CUT)

    @property
    def _grace_s(self) -> float:
        """What a worker takes at most once its drain is over: cancelled calls, then the app."""
        return 2 * self._limits.close_s + 0.5

    def _kill_late(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if now < worker.kill_at:
                continue
            if worker.asked is not None and not self._stopping:
                logger.error("reload_failed pid=%s reason='it did not answer'", worker.pid)
            worker.kill()
