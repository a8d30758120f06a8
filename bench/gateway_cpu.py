"""CPU per request of the gateway at saturation, and what it takes to start: three limits on SQLite, static upstream."""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvloop

from bench.load import Load, post, run_load
from spendfuse.simulator.process import running_simulator

KEY = "sk-bench"
CONFIG = """
store: sqlite:///spendfuse.db
providers:
  openai: {{api_key: os.environ/PROVIDER_KEY, base_url: "{base_url}"}}
models: {{gpt-4o-mini: openai/gpt-4o-mini}}
keys: [{{name: bench, key: os.environ/APP_KEY}}]
limits:
  company-month: {{usd: 100000, per: month}}
  user-tokens: {{tokens: 10_000_000_000, per: month, each: user}}
  key-rate: {{requests: 10_000_000, per: minute, each: key}}
"""
BODY = json.dumps(
    {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. " * 10},
            {"role": "user", "content": "Explain what a ledger is in a few words. " * 10},
        ],
        "max_tokens": 200,
        "user": "u1",
    }
).encode()
_ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)")


class Gateway:
    """A running gateway and its process tree."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port = port
        self._root = psutil.Process(process.pid)

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time of the whole tree so far."""
        return sum(times.user + times.system for times in (one.cpu_times() for one in self._tree()))

    def rss_mb(self) -> float:
        """Resident memory of the whole tree."""
        return sum(one.memory_info().rss for one in self._tree()) / 1e6


@contextmanager
def running_gateway(base_url: str, workers: int) -> Generator[Gateway]:
    """Start `spendfuse serve` with a fresh database."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "spendfuse.yaml"
        config.write_text(CONFIG.format(base_url=base_url))
        command = [sys.executable, "-m", "spendfuse.wiring", "serve", "--config", str(config), "--port", "0"]
        environment = {**os.environ, "PROVIDER_KEY": "sk-provider", "APP_KEY": KEY}
        process = subprocess.Popen([*command, "--workers", str(workers)], stderr=subprocess.PIPE, env=environment)
        try:
            assert process.stderr is not None
            seen = b""
            while not (found := _ADDRESS.search(seen)):
                line = process.stderr.readline()
                assert line, f"the gateway did not start: {seen.decode()}"
                seen += line
            yield Gateway(process, int(found.group(1)))
        finally:
            process.terminate()
            process.communicate()


def request(*, stream: bool = False) -> bytes:
    """The request that is sent over and over."""
    body = json.loads(BODY) | {"stream": stream}
    return post("/v1/chat/completions", json.dumps(body).encode(), {"authorization": f"Bearer {KEY}"})


def load_for(gateway: Gateway, *, connections: int, seconds: float) -> tuple[Load, float]:
    """Load a gateway; its CPU microseconds per request."""
    cpu_before_s = gateway.cpu_s()
    load = uvloop.run(run_load(gateway.port, request(), connections=connections, seconds=seconds))
    cpu_us = (gateway.cpu_s() - cpu_before_s) / load.requests * 1e6
    assert set(load.statuses) == {200}, load.statuses
    return load, cpu_us


def measure_cpu(base_url: str, *, workers: int, connections: int, seconds: float, runs: int) -> None:
    """Print the median CPU per request over several runs on one gateway."""
    with running_gateway(base_url, workers) as gateway:
        load_for(gateway, connections=connections, seconds=1.0)
        results = [load_for(gateway, connections=connections, seconds=seconds) for _ in range(runs)]
        cpu_us = sorted(cpu for _, cpu in results)
        load = results[-1][0]
        print(
            f"workers {workers}  connections {connections}  CPU us/request median {statistics.median(cpu_us):.0f} "
            f"({cpu_us[0]:.0f} to {cpu_us[-1]:.0f})  requests/s {load.requests / load.seconds:.0f}  "
            f"p50 {load.quantile_ms(0.5):.1f} ms  p99 {load.quantile_ms(0.99):.1f} ms  RSS {gateway.rss_mb():.0f} MB"
        )


def measure_start(base_url: str, runs: int) -> None:
    """Print the time from `serve` to the first 200, and the memory then."""
    seconds: list[float] = []
    rss_mb = 0.0
    for _ in range(runs):
        started_at = time.perf_counter()
        with running_gateway(base_url, 1) as gateway:
            load = asyncio.run(run_load(gateway.port, request(), connections=1, seconds=0.0))
            seconds.append(time.perf_counter() - started_at)
            assert load.statuses == {200: 1}, load.statuses
            rss_mb = gateway.rss_mb()
    print(f"start to first 200: median {statistics.median(seconds):.2f} s of {runs}  RSS {rss_mb:.0f} MB")


def main() -> None:
    """Measure with a static simulator as upstream."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    arguments = parser.parse_args()
    with running_simulator(static=True) as simulator:
        measure_start(simulator.base_url, arguments.runs)
        for workers in arguments.workers:
            measure_cpu(
                simulator.base_url,
                workers=workers,
                connections=arguments.connections,
                seconds=arguments.seconds,
                runs=arguments.runs,
            )


if __name__ == "__main__":
    main()
