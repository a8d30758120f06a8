"""What the demo is played on: its config, and the gateway in a process of its own.

The gateway is forked, so it is served by the very factories that `serve` gets. It has a session of its own: Ctrl-C
reaches only the demo, which then ends it. It ends by itself when the demo is gone, whatever ended that.
"""

import errno
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

from spendfuse.cli.configs import ServedConfig
from spendfuse.cli.factories import Factories
from spendfuse.cli.logs import LogLevel, configure_logs
from spendfuse.cli.serve import serve_gateway
from spendfuse.config import Config
from spendfuse.core.errors import SpendfuseError
from spendfuse.server.run import StartFailed

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0

CLAUDE = "claude-haiku"
CONFIG = """\
# Written by `spendfuse demo`: limits so small that a few seconds of traffic reach them.
store: sqlite:///demo.db

providers:
  openai:
    base_url: {base_url}        # the simulated provider; leave it out for the real one
    api_key: sk-simulated
  anthropic:
    base_url: {base_url}
    api_key: sk-simulated

models:
  gpt-4o: openai/gpt-4o
  gpt-4o-mini: openai/gpt-4o-mini
  {claude}: anthropic/claude-3-5-haiku-20241022

limits:
  company-month: {{usd: 0.50, per: month}}
  feature-week:  {{usd: 0.15, per: week, each: feature}}
  user-tokens:   {{tokens: 12_000, per: month, each: user}}
  sync-rate:     {{requests: 10, per: 10s, match: {{feature: [sync]}}}}
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The running gateway."""

    base_url: str
    took_other_port: bool
    process: ForkProcess

    def wait(self) -> None:
        """Until it ends, which it should not do by itself."""
        self.process.join()


def write_config(folder: Path, base_url: str) -> Path:
    """Write the demo's config into its folder."""
    path = folder / "spendfuse.yaml"
    path.write_text(CONFIG.format(base_url=base_url, claude=CLAUDE), encoding="utf-8")
    return path


@contextmanager
def running_gateway(factories: Factories, config: Config, *, port: int, log: Path) -> Generator[Gateway]:
    """Serve the config at this port, or at a free one when it is taken, until the end of the block.

    Raises:
        StartFailed: it never came to accept calls.
    """
    is_taken = _is_taken(port)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(factories, config, 0 if is_taken else port, log), kwargs={"ours": theirs, "demos": ours}
    )
    process.start()
    theirs.close()
    try:
        yield Gateway(f"http://{HOST}:{_started_port(ours, log)}/v1", is_taken, process)
    finally:
        ours.close()
        process.join(STOP_TIMEOUT_S)
        process.kill()
        process.join()


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as refused:
            return refused.errno == errno.EADDRINUSE
    return False


def _started_port(channel: Connection, log: Path) -> int:
    try:
        answer: object = channel.recv() if channel.poll(START_TIMEOUT_S) else "it did not start in time"
    except EOFError:
        answer = "it ended at once"
    if isinstance(answer, int):
        return answer
    raise StartFailed(f"the gateway: {answer} (log: {log})")


# In the gateway's process


def _serve(factories: Factories, config: Config, port: int, log: Path, *, ours: Connection, demos: Connection) -> None:
    demos.close()
    os.setsid()
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    configure_logs(LogLevel.INFO)
    threading.Thread(target=_end_with_demo, args=(ours,), daemon=True).start()
    try:
        served = ServedConfig(Path(config.source))
        serve_gateway(factories, served, host=HOST, port=port, on_started=lambda _, actual: ours.send(actual))
    except SpendfuseError as error:
        ours.send(str(error))


def _end_with_demo(channel: Connection) -> None:
    try:
        channel.recv()
    except EOFError:
        os.kill(os.getpid(), signal.SIGTERM)
