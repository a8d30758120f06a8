"""A small app behind the real server, as a command of its own, and the handle by which tests hold it.

It prints one line of JSON per event: `started` with the port, `opened` and `closed` with the pid of the app's process,
`opened` with the document as well.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

import psutil
from raw_http import RawClient, get

from spendfuse.core.errors import SpendfuseError
from spendfuse.server.protocol import ServerLimits
from spendfuse.server.run import AppFactory, Message, StartFailed
from spendfuse.server.supervisor import serve

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CHUNK = b"x" * 65_536
LARGE_CHUNKS = 800


class App:
    """Each path is one thing an app can do to its server, or learn from it."""

    def __init__(self, document: str) -> None:
        self.document = document
        self.left_at: dict[str, float] = {}
        self.left: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.chunks_sent = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        await getattr(self, scope["path"].strip("/"))(scope, receive, send, query)

    async def reload(self, document: str) -> None:
        """Take a document that does not say otherwise: `refused by all`, `refused by one PATH`, `fatal to one PATH`."""
        what, _, path = document.partition(" PATH ")
        if what == "refused by all" or (what == "refused by one" and is_first(Path(path))):
            raise SpendfuseError(f"not this one: {what}")
        if what == "fatal to one" and is_first(Path(path)):
            os._exit(3)
        self.document = document

    async def echo(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        body = await read_body(receive)
        names = [name.decode() for name, _ in scope["headers"]]
        said = {"body_bytes": len(body), "pid": os.getpid(), "path": scope["path"], "headers": names}
        await answer(send, {**said, "document": self.document})

    async def wait(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        """Answers after `s` seconds, unless the client leaves before."""
        await read_body(receive)
        try:
            async with asyncio.timeout(float(query.get("s", "60"))):
                await self.see_leaving(receive, query["name"])
        except TimeoutError:
            await answer(send, {"waited": True})

    async def stream(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        await read_body(receive)
        watch = asyncio.create_task(self.see_leaving(receive, query["name"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(int(query["chunks"])):
            if watch.done():
                return
            await send({"type": "http.response.body", "body": b"chunk %d" % number, "more_body": True})
            await asyncio.sleep(0.05)
        watch.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def see_leaving(self, receive: Receive, name: str) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left_at[name] = time.monotonic()
        self.left[name].set()

    async def gone(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        """When the client of the named call was seen to leave; waits for it."""
        async with asyncio.timeout(5):
            await self.left[query["name"]].wait()
        await answer(send, {"at": self.left_at[query["name"]]})

    async def large(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for self.chunks_sent in range(1, LARGE_CHUNKS + 1):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def sent(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        await answer(send, {"chunks": self.chunks_sent})

    async def refuse(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        """Answers without reading the body."""
        await answer(send, {"refused": True}, status=401)

    async def crash(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        raise RuntimeError("a defect")

    async def silence(self, scope: Message, receive: Receive, send: Send, query: dict[str, str]) -> None:
        """Returns without an answer."""


def is_first(path: Path) -> bool:
    """Whether nobody else has come by here before."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(send: Send, content: dict[str, Any], *, status: int = 200) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def say(event: str, **facts: object) -> None:
    # One write a line: several processes share this pipe.
    os.write(1, (json.dumps({"event": event, **facts}) + "\n").encode())


@contextlib.asynccontextmanager
async def opens(document: str) -> AsyncGenerator[App]:
    say("opened", pid=os.getpid(), document=document)
    yield App(document)
    say("closed", pid=os.getpid())


@contextlib.asynccontextmanager
async def fails(document: str) -> AsyncGenerator[App]:
    raise ValueError("no such store")
    yield App(document)


@contextlib.asynccontextmanager
async def hangs(document: str) -> AsyncGenerator[App]:
    say("opening", pid=os.getpid())
    await asyncio.Event().wait()
    yield App(document)


def fails_while_present(path: Path) -> AppFactory:
    @contextlib.asynccontextmanager
    async def factory(document: str) -> AsyncGenerator[App]:
        if path.exists():
            raise ValueError(f"{path.name} is in the way")
        async with opens(document) as app:
            yield app

    return factory


def waits_while_present(path: Path) -> AppFactory:
    @contextlib.asynccontextmanager
    async def factory(document: str) -> AsyncGenerator[App]:
        if path.exists():
            say("opening", pid=os.getpid(), document=document)
        while path.exists():
            await asyncio.sleep(0.01)
        async with opens(document) as app:
            yield app

    return factory


def opens_once(path: Path) -> AppFactory:
    """The first process opens, every later one fails."""

    @contextlib.asynccontextmanager
    async def factory(document: str) -> AsyncGenerator[App]:
        path.touch(exist_ok=False)
        async with opens(document) as app:
            yield app

    return factory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--limits", type=json.loads, default={})
    parser.add_argument("--factory", default="opens")
    parser.add_argument("--path", type=Path, default=None)
    parser.add_argument("--document", type=Path, default=None)
    parser.add_argument("--reload-s", type=float, default=5.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    factory = globals()[options.factory]

    def read_document(document: str) -> str:
        newer = options.document.read_text()
        if newer == "broken":
            raise SpendfuseError(f"{options.document.name}: is broken")
        return newer

    try:
        serve(
            factory if options.path is None else factory(options.path),
            document=options.document.read_text() if options.document else "",
            read_document=read_document,
            reload_s=options.reload_s,
            host=options.host,
            port=options.port,
            workers=options.workers,
            limits=ServerLimits(**options.limits),
            on_started=lambda host, port: say("started", host=host, port=port),
        )
    except StartFailed as exc:
        sys.exit(f"start failed: {exc}")


@dataclass(slots=True)
class Served:
    """A server that runs as a process of its own."""

    process: subprocess.Popen[str]
    port: int = 0
    logged: str = ""
    """What of its log was read."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def rss_bytes(self) -> int:
        return psutil.Process(self.pid).memory_info().rss

    def wait_until_all_opened(self, processes: int) -> None:
        opened = 0
        while not self.port or opened < processes:
            said = self.wait_for("opened", "started")
            self.port = said.get("port", self.port)
            opened += said["event"] == "opened"

    def worker_pids(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.pid).children()}

    def wait_for(self, *events: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] in events:
                return said
        raise AssertionError(f"ended without {events}: {self.process.stderr and self.process.stderr.read()}")

    def wait_for_log(self, text: str) -> None:
        """Read the log until a line has this text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.logged += line
            if text in line:
                return
        raise AssertionError(f"ended without {text!r}: {self.logged}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, *, timeout_s: float = 10.0) -> tuple[int, str, str]:
        """Wait for the end: exit code, what was said since, what was logged."""
        said, logged = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, said, self.logged + logged


class EachProcess:
    """A connection to every process of a server, to ask each what it serves."""

    def __init__(self, server: Served) -> None:
        self._clients: dict[int, RawClient] = {}
        pids = server.worker_pids() or {server.pid}
        ends_at = time.monotonic() + 10
        while self._clients.keys() != pids:
            assert time.monotonic() < ends_at, "the system gives one of them no connection"
            client = RawClient(server.port)
            pid = ask_on(client)["pid"]
            if pid in self._clients:
                client.close()
            else:
                self._clients[pid] = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *of_error: object) -> None:
        for client in self._clients.values():
            client.close()

    def documents(self) -> dict[int, str]:
        """What each serves, by its pid."""
        return {pid: ask_on(client)["document"] for pid, client in self._clients.items()}

    def agree_on(self, document: str, *, within_s: float) -> None:
        """Ask until all serve it; the others are asked again meanwhile."""
        ends_at = time.monotonic() + within_s
        while {*(serves := self.documents()).values()} != {document}:
            assert time.monotonic() < ends_at, serves


def ask_on(client: RawClient) -> dict[str, Any]:
    """What an app says of itself."""
    client.send(get("/echo"))
    return client.read_answer().json


@contextlib.contextmanager
def served(
    *,
    workers: int = 1,
    host: str = "127.0.0.1",
    port: int = 0,
    factory: str = "opens",
    path: Path | None = None,
    limits: dict[str, float] | None = None,
    document: Path | None = None,
    reload_s: float = 5.0,
    await_start: bool = True,
) -> Generator[Served]:
    command = [sys.executable, __file__, "--workers", str(workers), "--host", host, "--port", str(port)]
    command += ["--factory", factory, "--limits", json.dumps(limits or {})]
    command += ["--path", str(path)] if path else []
    command += ["--document", str(document)] if document else []
    command += ["--reload-s", str(reload_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        server = Served(process)
        try:
            if await_start:
                server.wait_until_all_opened(workers)
            yield server
        finally:
            process.kill()


if __name__ == "__main__":
    main()
