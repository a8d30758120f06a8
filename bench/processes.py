"""Servers in processes of their own, and what a process tree has used."""

import select
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import psutil

START_TIMEOUT_S = 30
_IS_LINUX = sys.platform == "linux"


class ProcessTree:
    """A process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def _processes(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time of all of them so far."""
        return sum(cpu_s(one) for one in self._processes())

    def rss_mb(self) -> float:
        """Resident memory of all of them; what they share counts for each."""
        return sum(one.memory_info().rss for one in self._processes()) / 1e6


def cpu_s(process: psutil.Process) -> float:
    """User and system time of one process so far."""
    if _IS_LINUX:
        # The clock of another process: in nanoseconds, where /proc counts in ticks of 10 ms.
        return time.clock_gettime(~process.pid << 3 | 2)
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def running_module(module: str, *arguments: str) -> Generator[tuple[ProcessTree, int]]:
    """Run a module of ours that prints its port once it listens; end it afterwards."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
            line = process.stdout.readline() if ready else b""
            assert line, f"{module} did not say where it listens; its standard error says why"
            yield ProcessTree(process.pid), int(line)
        finally:
            process.kill()
