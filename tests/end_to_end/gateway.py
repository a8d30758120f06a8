"""The real gateway in processes of its own, before a simulated provider: what the end-to-end tests drive."""

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from spendfuse.simulator.process import RunningSimulator

APP_KEY = "sk-test-app"
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 40
_ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A handle on a running `spendfuse serve`."""

    process: subprocess.Popen[bytes]
    port: int
    config: Path

    @property
    def base_url(self) -> str:
        """With `/v1`, as SDKs want it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def database(self) -> Path:
        return self.config.with_name("spendfuse.db")

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `spendfuse` command against this gateway's config."""
        return run_command(*arguments, config=self.config, check=check)

    def totals(self) -> "Totals":
        """What the ledger has, over all labels."""
        return totals(self.database)

    def kill(self) -> None:
        """`kill -9` the gateway and all its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a ledger's database: nano-dollars, tokens, and numbers of rows."""

    settled: int
    reserved: int
    tokens: int
    entries: int
    open_reservations: int

    @property
    def committed(self) -> int:
        return self.settled + self.reserved


def totals(database: Path) -> Totals:
    """Read a ledger's database directly, beside whatever processes use it."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        settled, tokens, entries = connection.execute(
            "SELECT coalesce(sum(cost), 0), coalesce(sum(input_tokens + output_tokens), 0), count(*) FROM entry"
        ).fetchone()
        reserved, open_reservations = connection.execute(
            "SELECT coalesce(sum(cost), 0), count(*) FROM reservation"
        ).fetchone()
    return Totals(settled, reserved, tokens, entries, open_reservations)


def run_command(*arguments: str, config: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `spendfuse COMMAND … --config CONFIG` to its end."""
    command = [sys.executable, "-m", "spendfuse.wiring", *arguments, "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=60)
    if check and done.returncode:
        raise AssertionError(f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def config_text(simulator: RunningSimulator, *, limits: str = "limits: {}", more: str = "") -> str:
    """A config whose provider is the simulator; `limits` and `more` are YAML at the top level."""
    return f"""
store: sqlite:///spendfuse.db
providers:
  openai: {{api_key: os.environ/PROVIDER_KEY, base_url: "{simulator.base_url}"}}
  anthropic: {{api_key: os.environ/PROVIDER_KEY, base_url: "{simulator.base_url}"}}
models:
  gpt-4o-mini: openai/gpt-4o-mini
  gpt-4o: openai/gpt-4o
  o4-mini: openai/o4-mini
  embed: openai/text-embedding-3-small
  claude-haiku: anthropic/claude-3-5-haiku-20241022
  claude-sonnet: anthropic/claude-sonnet-4-5
keys:
  - {{name: app, key: os.environ/APP_KEY}}
{limits}
{more}
"""


@contextmanager
def running_gateway(
    config: str,
    folder: Path,
    *,
    workers: int = 1,
    name: str = "spendfuse.yaml",
    port: int = 0,
    environ: Mapping[str, str] | None = None,
) -> Generator[RunningGateway]:
    """Start `spendfuse --config` on a port (0: a free one); end it by SIGTERM if it still runs, with a clean exit.

    `environ` is added to its environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(config)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "spendfuse.wiring", "--config", str(path)),
            *("--port", str(port), "--workers", str(workers)),
        ],
        stderr=subprocess.PIPE,
        env={**_environment(), **(environ or {})},
        start_new_session=True,
    )
    log = _Log(process, folder / "gateway.log")
    try:
        port = log.wait_for_port()
        log.follow()
        yield RunningGateway(process, port, path)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_TIMEOUT_S) == 0, "the gateway did not stop cleanly"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


class _Log:
    """Keeps a process's standard error in a file, and finds its port there."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        assert process.stderr is not None
        self._stderr = process.stderr
        self._path = path
        self._copier: subprocess.Popen[bytes] | None = None

    def wait_for_port(self) -> int:
        seen = b""
        ends_at = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < ends_at:
            ready, _, _ = select.select([self._stderr], [], [], 0.5)
            if not ready:
                continue
            piece = os.read(self._stderr.fileno(), 65_536)
            seen += piece
            self._path.write_bytes(seen)
            found = _ADDRESS.search(seen)
            if found:
                return int(found.group(1))
            if not piece:
                break
        raise AssertionError(f"the gateway did not start:\n{seen.decode()}")

    def follow(self) -> None:
        """Go on copying, so that the pipe never fills."""
        self._copier = subprocess.Popen(["tee", "-a", str(self._path)], stdin=self._stderr, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        self._stderr.close()
        if self._copier is not None:
            self._copier.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PROVIDER_KEY": "sk-provider", "APP_KEY": APP_KEY, "NO_COLOR": "1"}


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for something that other processes bring about."""
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def sse_events(body: bytes) -> list[object]:
    """The JSON of every `data:` line of a stream, without its `[DONE]`."""
    lines = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]
