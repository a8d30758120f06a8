"""The parent's side of one worker: how it is forked, what is known of it, how it is told and killed."""

import logging
import math
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from typing import Any

from spendfuse.server.channel import Channel
from spendfuse.server.run import run_loop

logger = logging.getLogger("spendfuse.server")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
"""What the parent heeds, and a worker leaves to it."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process as its parent knows it."""

    process: ForkProcess
    channel: Channel
    follows: int
    """The number of the document that it serves."""
    deaths_before: int
    started_at: float = field(default_factory=time.monotonic)
    accepts: bool = False
    failure: str = ""
    """Why it could not start."""
    asked: int | None = None
    """The number of the document that it was told to follow, until it has answered."""
    refused: int | None = None
    """The number of the last one that it could not follow."""
    leaves: bool = False
    """It drains, and another takes its place."""
    kill_at: float = math.inf

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def is_free(self) -> bool:
        """It serves, and has nothing to answer to."""
        return self.accepts and self.asked is None and not self.leaves

    def serves(self, number: int) -> bool:
        """It accepts calls, and serves the document of this number."""
        return self.accepts and not self.leaves and self.follows == number

    def kill(self) -> None:
        logger.error("worker_killed pid=%s", self.pid)
        self.kill_at = math.inf
        self.process.kill()

    def end(self, within_s: float) -> None:
        """See a process end that has said its last; past the deadline kill it."""
        self.channel.close()
        self.process.join(within_s)
        self.process.kill()
        self.process.join()

    @property
    def reason(self) -> str:
        """Why it ended."""
        if self.failure:
            return self.failure
        code = self.process.exitcode
        ending = f"exit code {code}" if code is None or code >= 0 else f"signal {-code}"
        return f"a worker ended by itself ({ending})"


def fork_worker(
    serve: Callable[[Channel], Coroutine[Any, Any, None]], siblings: Iterable[Worker], *, follows: int, deaths: int
) -> Worker:
    """Start a process that serves with its end of a new channel. Its other end does not block: one worker that does not
    read must not keep the parent from the others."""
    ours, theirs = socket.socketpair()

    def live() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # An end held open here would hide the parent's death from the worker at its other side.
        ours.close()
        for sibling in siblings:
            sibling.channel.close()
        run_loop(serve(Channel(theirs)))

    process = multiprocessing.get_context("fork").Process(target=live)
    # A signal to the child before it has its own handlers would pass for one to the parent.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    theirs.close()
    ours.setblocking(False)
    return Worker(process, Channel(ours), follows, deaths)
