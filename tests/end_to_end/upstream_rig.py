"""Small raw servers on loopback, and what the tests of upstream clients run against them in."""

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

from spendfuse.upstream.client import UpstreamClient, UpstreamRequest
from spendfuse.upstream.http_client import HttpClient

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Scenario = Callable[[], Awaitable[None]]
Run = Callable[[Scenario], None]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run_in(loop: str) -> Run:
    """Runs a scenario in a new event loop, within ten seconds."""

    def in_new_loop(scenario: Scenario) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(10):
                await scenario()

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(bounded())

    return in_new_loop


@asynccontextmanager
async def a_client(context: ssl.SSLContext | None = None) -> AsyncIterator[UpstreamClient]:
    """A client for the time of the context."""
    client = HttpClient(ssl_context=context)
    try:
        yield client
    finally:
        await client.close()


async def body_of(client: UpstreamClient, request: UpstreamRequest) -> bytes:
    async with client.post(request) as response:
        return await response.read(1 << 20)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass
class Connection:
    """One accepted socket, as its script sees it."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> tuple[bytes, bytes]:
        """The next request: (head, body)."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head, await self.reader.readexactly(size)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> tuple[float, int]:
        """Seconds until the client has closed the socket, and the bytes that it still sent."""
        began = time.monotonic()
        size = 0
        try:
            while data := await self.reader.read(65_536):
                size += len(data)
        except ConnectionError:
            pass
        return time.monotonic() - began, size

    async def closed_after_s(self) -> float:
        """Seconds until the client has closed the socket."""
        return (await self.rest())[0]


Script = Callable[[Connection], Awaitable[None]]


@dataclass
class Server:
    """A server that runs one script per connection."""

    url: str = ""
    connections: int = 0

    def post(self, body: bytes = b"{}", **kwargs: float) -> UpstreamRequest:
        return UpstreamRequest(url=self.url, headers={"Authorization": "Bearer sk-secret"}, body=body, **kwargs)


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        try:
            await script(Connection(server.connections, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client closed first: the tests look at its side.
        except asyncio.CancelledError:
            pass  # The test is over.
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1/chat/completions"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


@contextmanager
def unanswering() -> Generator[int]:
    """A port of 127.0.0.1 on which attempts to connect get no answer, because its queue is full."""
    with socket.socket() as listener, ExitStack() as queued:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            caller = queued.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def sockets_to(port: int) -> int:
    """How many sockets of this process are connected or connecting to a port."""
    return sum(bool(one.raddr) and one.raddr.port == port for one in psutil.Process().net_connections("tcp"))


async def until(holds: Callable[[], bool]) -> None:
    """Returns as soon as a condition holds."""
    while not holds():
        await asyncio.sleep(0.01)


def tls_server(folder: Path, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for a host, and a client's context that trusts it."""
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        [*command.split(), "-addext", f"subjectAltName={host}", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)
