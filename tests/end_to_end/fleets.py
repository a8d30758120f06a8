"""Gateways that serve one config on one store, every process of theirs, and a look into the store from outside."""

import itertools
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until
from postgres_stores import fetch, gateways, new_database
from raw_http import Answer, RawClient, get, post

from spendfuse.simulator.process import RunningSimulator

FOLLOW_S = 1.0
"""How long after SIGHUP a process may serve the config from before."""
SMALL_TOKENS = 100

Query = Callable[[str], list[tuple[int, ...]]]


def marked(config: str, mark: str) -> str:
    """The config with one more model, by whose name a process shows that it serves this one."""
    return config.replace("models:\n", f"models:\n  {mark}: openai/gpt-4o\n", 1)


@dataclass(slots=True)
class Process:
    """One process that serves, on a connection of its own."""

    pid: int
    client: RawClient

    def ask(self, request: bytes) -> Answer:
        self.client.send(request)
        return self.client.read_answer()

    def serves_model(self, name: str, *, key: str = APP_KEY) -> bool:
        return self.ask(get(f"/v1/models/{name}", bearer(key))).status == 200

    def call(self, *, model: str = "gpt-4o-mini", key: str = APP_KEY, prompt: str = "Hello") -> Answer:
        """A small call."""
        messages = [{"role": "user", "content": prompt}]
        body = json.dumps({"model": model, "max_tokens": SMALL_TOKENS, "messages": messages}).encode()
        return self.ask(post("/v1/chat/completions", body, bearer(key)))


@dataclass(slots=True)
class Fleet:
    """Running gateways, and how their config is changed."""

    running: list[RunningGateway]
    query: Query
    store: str
    processes: list[Process] = field(default_factory=list[Process])
    _marks: "itertools.count[int]" = field(default_factory=itertools.count)

    def write(self, config: str, *gateways: RunningGateway) -> None:
        """Put another config in the place of the old one, and ask for it."""
        for gateway in gateways or self.running:
            new = gateway.config.with_suffix(".new")
            new.write_text(config.replace("sqlite:///spendfuse.db", self.store))
            new.replace(gateway.config)
            os.kill(gateway.process.pid, signal.SIGHUP)

    def reload(self, config: str) -> float:
        """Change the config; after how many seconds all processes served it."""
        mark = f"mark-{next(self._marks)}"
        asked_at = time.monotonic()
        self.write(marked(config, mark))
        while not all(process.serves_model(mark) for process in self.processes):
            assert time.monotonic() < asked_at + FOLLOW_S, "not all processes have followed"
        return time.monotonic() - asked_at

    def refuses(self, config: str, *told: str) -> None:
        """Try a config that can't be used: all goes on as before, and a line of the log tells why."""
        logs = [gateway.config.with_name("gateway.log") for gateway in self.running]
        sizes = [log.stat().st_size for log in logs]
        self.write(config)
        for log, size in zip(logs, sizes, strict=True):
            wait_until(lambda log=log, size=size: "reload_refused" in log.read_text()[size:], 5, "it is refused")
            said = log.read_text()[size:]
            assert all(text in said for text in told), said
            assert "config_reloaded" not in said

    def codes(self, *, model: str = "gpt-4o-mini", key: str = APP_KEY) -> set[str]:
        """What a small call meets, at any of the processes: `served`, or the code of a refusal."""
        return {code_of(process.call(model=model, key=key)) for process in self.processes}

    def settled_nanos(self) -> int:
        """What all calls were charged, once none is open."""
        wait_until(lambda: self.query("SELECT count(*) FROM reservation")[0][0] == 0, 5, "all calls are settled")
        return int(self.query("SELECT coalesce(sum(cost), 0) FROM entry")[0][0])

    def assert_whole(self, simulator: RunningSimulator) -> None:
        """The ledger has the provider's bill to the nano-dollar, and agrees with itself."""
        assert simulator.bill(wait_idle_s=5).nanos == self.settled_nanos()
        assert self.running[0].run("audit").stdout.startswith("clean")


def bearer(key: str) -> bytes:
    return f"Authorization: Bearer {key}".encode()


def code_of(answer: Answer) -> str:
    return "served" if answer.status == 200 else answer.error_code


@contextmanager
def running_fleet(
    config: str, folder: Path, *, workers: int = 1, postgres: str | None = None, name: str = "spendfuse.yaml"
) -> Generator[Fleet]:
    """A gateway of some workers on SQLite, or two gateways on a database of this server."""
    with ExitStack() as stack:
        if postgres is None:
            running = [stack.enter_context(running_gateway(config, folder, workers=workers, name=name))]
            database, store = running[0].database, "sqlite:///spendfuse.db"
            fleet = Fleet(running, lambda statement: _read(database, statement), store)
        else:
            dsn = new_database(postgres, folder)
            running = stack.enter_context(gateways(config, dsn, folder, count=2))
            fleet = Fleet(running, lambda statement: [tuple(row) for row in fetch(dsn, statement)], dsn)
        for gateway in running:
            fleet.processes += processes_of(gateway, workers)
        for process in fleet.processes:
            stack.callback(process.client.close)
        yield fleet


def processes_of(gateway: RunningGateway, workers: int) -> list[Process]:
    """A connection to each process that serves for a gateway."""
    parent = psutil.Process(gateway.process.pid)
    wait_until(lambda: workers == 1 or len(parent.children()) == workers, 10, "all workers run")
    serving = {one.pid: one for one in (parent.children() if workers > 1 else [parent])}
    found: dict[int, Process] = {}
    ends_at = time.monotonic() + 20
    while found.keys() != serving.keys():
        assert time.monotonic() < ends_at, "the system gives one of them no connection"
        client = RawClient(gateway.port, timeout_s=30)
        client.send(get("/health/live"))
        client.read_answer()
        port = client.socket.getsockname()[1]
        pid = next(
            pid for pid, one in serving.items() if any(x.raddr and x.raddr.port == port for x in one.net_connections())
        )
        if pid in found:
            client.close()
        else:
            found[pid] = Process(pid, client)
    return list(found.values())


def _read(database: Path, statement: str) -> list[tuple[int, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(statement).fetchall()


def limited(simulator: RunningSimulator, limits: str, more: str = "") -> str:
    """The usual config with these limits, in YAML's flow style."""
    return config_text(simulator, limits=f"limits: {{{limits}}}", more=more)
