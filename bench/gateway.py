"""A running gateway, with whichever config, before the static upstream."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import ProcessTree, running_module
from bench.ways import KEY

CONFIG = """
store: sqlite:///spendfuse.db
providers:
  openai: {{api_key: os.environ/PROVIDER_KEY, base_url: "{base_url}"}}
  anthropic: {{api_key: os.environ/PROVIDER_KEY, base_url: "{base_url}"}}
models:
  gpt-4o-mini: openai/gpt-4o-mini
  claude-haiku: anthropic/claude-haiku-4-5-20251001
keys: [{{name: bench, key: os.environ/APP_KEY}}]
limits:
  company-month: {{usd: 100000, per: month}}
  user-tokens: {{tokens: 10_000_000_000, per: month, each: user}}
  key-rate: {{requests: 10_000_000, per: minute, each: key}}
"""
ENVIRONMENT = {"PROVIDER_KEY": "sk-provider", "APP_KEY": KEY}
_ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens, and what it uses."""

    processes: ProcessTree
    port: int


@contextmanager
def running_upstream(*, interval_ms: float = 5.0) -> Generator[Server]:
    """The static upstream."""
    with running_module("bench.upstream", "--interval-ms", str(interval_ms)) as (processes, port):
        yield Server(processes, port)


@contextmanager
def running_relay(upstream: Server) -> Generator[Server]:
    """The relay of bytes that is the floor."""
    with running_module("bench.relay", str(upstream.port)) as (processes, port):
        yield Server(processes, port)


@contextmanager
def running_gateway(upstream: Server, *, workers: int = 1) -> Generator[Server]:
    """The gateway under three limits, with a fresh database."""
    config = CONFIG.format(base_url=f"http://127.0.0.1:{upstream.port}/v1")
    with serving({"spendfuse.yaml": config}, "--config", "spendfuse.yaml", "--workers", str(workers)) as gateway:
        yield gateway


@contextmanager
def serving(files: Mapping[str, str], *options: str, environment: Mapping[str, str] = ENVIRONMENT) -> Generator[Server]:
    """Run `spendfuse serve` in a folder of its own that holds these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_text(content)
        process = subprocess.Popen(
            [sys.executable, "-m", "spendfuse.wiring", "serve", "--port", "0", *options],
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            cwd=folder,
        )
        try:
            assert process.stderr is not None
            seen = b""
            while not (found := _ADDRESS.search(seen)):
                line = process.stderr.readline()
                assert line, f"the gateway did not start: {seen.decode()}"
                seen += line
            yield Server(ProcessTree(process.pid), int(found.group(1)))
        finally:
            process.terminate()
            process.communicate()
