"""The aiohttp upstream client against small raw servers on loopback."""

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from spendfuse.upstream.aiohttp_client import AiohttpClient
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamClient, UpstreamRequest, UpstreamTimeout

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


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
    requests: list[bytes] = field(default_factory=list[bytes])

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


@asynccontextmanager
async def a_client(context: ssl.SSLContext | None = None) -> AsyncIterator[AiohttpClient]:
    client = AiohttpClient(ssl_context=context)
    try:
        yield client
    finally:
        await client.close()


Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario in a new event loop, within ten seconds."""

    def in_new_loop(scenario: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(10):
                await scenario()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return in_new_loop


async def body_of(client: UpstreamClient, request: UpstreamRequest) -> bytes:
    async with client.post(request) as response:
        return await response.read(1 << 20)


def test_answers_and_requests_arrive_as_they_are(run: Run) -> None:
    async def script(connection: Connection) -> None:
        head, body = await connection.request()
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        lines = {line.lower() for line in head.split(b"\r\n")}
        assert {b"authorization: bearer sk-secret", b"accept-encoding: identity"} <= lines
        await connection.send(answer(b"<" + body + b">", "X-Request-Id: r1", status="429 Slow Down"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client, client.post(server.post(b'{"a":1}')) as response:
            assert response.status == 429
            assert response.headers["x-request-id"] == "r1"
            assert await response.read(100) == b'<{"a":1}>'

    run(scenario)


def test_bodies_above_a_mebibyte_are_sent_whole(run: Run) -> None:
    async def script(connection: Connection) -> None:
        _, body = await connection.request()
        await connection.send(answer(str(len(body)).encode()))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            assert await body_of(client, server.post(b"x" * 5_000_000)) == b"5000000"

    run(scenario)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_thousand_calls_in_a_row_open_one_socket(run: Run, chunked: bool) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(CHUNKED_HEAD + chunk(b"ok") + b"0\r\n\r\n" if chunked else answer(b"ok"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for _ in range(1_000):
                assert await body_of(client, server.post()) == b"ok"
            assert server.connections == 1

    run(scenario)


def test_compressed_answers_are_not_decoded(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"not gzip at all", "Content-Encoding: gzip"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            assert await body_of(client, server.post()) == b"not gzip at all"

    run(scenario)


def test_redirects_are_not_followed_and_cookies_not_kept(run: Run) -> None:
    heads: list[bytes] = []

    async def script(connection: Connection) -> None:
        while True:
            heads.append((await connection.request())[0])
            await connection.send(answer(b"", "Location: /elsewhere", "Set-Cookie: a=b; Path=/", status="307 Go"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for _ in range(2):
                async with client.post(server.post()) as response:
                    assert response.status == 307
        assert len(heads) == 2
        assert not any(b"\r\ncookie:" in head.lower() or b"elsewhere" in head for head in heads)

    run(scenario)


def test_chunks_come_as_they_are_sent(run: Run) -> None:
    seen = asyncio.Queue[bytes]()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED_HEAD)
        for data in (b"one", b"two", b"three"):
            await connection.send(chunk(data))
            assert await seen.get() == data  # The next goes out only once this one has arrived.
        await connection.send(b"0\r\n\r\n")

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client, client.post(server.post()) as response:
            async for data in response.chunks():
                await seen.put(data)
        assert seen.empty()

    run(scenario)


def test_no_listener_is_never_sent(run: Run) -> None:
    async def nothing(connection: Connection) -> None:
        raise AssertionError(connection)

    async def scenario() -> None:
        async with serving(nothing) as server:
            request = server.post()
        async with a_client() as client:
            with pytest.raises(NeverSent):
                await body_of(client, request)

    run(scenario)


def test_a_handshake_that_stalls_is_never_sent(run: Run) -> None:
    async def silent(connection: Connection) -> None:
        await connection.closed_after_s()

    async def scenario() -> None:
        async with serving(silent) as server, a_client() as client:
            server.url = server.url.replace("http:", "https:")
            with pytest.raises(NeverSent):
                await body_of(client, server.post(connect_timeout_s=0.1))

    run(scenario)


def test_a_url_that_is_none_is_never_sent(run: Run) -> None:
    async def scenario() -> None:
        async with a_client() as client:
            for url in ("ftp://127.0.0.1/", "/v1/chat/completions"):
                with pytest.raises(NeverSent):
                    await body_of(client, UpstreamRequest(url=url, headers={}, body=b"{}"))

    run(scenario)


def test_a_closed_client_never_sends(run: Run) -> None:
    async def scenario() -> None:
        client = AiohttpClient()
        await client.close()
        with pytest.raises(NeverSent):
            await body_of(client, UpstreamRequest(url="http://127.0.0.1:9/", headers={}, body=b"{}"))

    run(scenario)


def test_a_connection_lost_during_the_upload_is_never_sent(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.readexactly(10_000)
        connection.writer.transport.abort()

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            with pytest.raises(NeverSent):
                await body_of(client, server.post(b"x" * 64_000_000))

    run(scenario)


def test_a_connection_lost_after_the_upload_has_an_unknown_fate(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            with pytest.raises(FateUnknown):
                await body_of(client, server.post())
            assert server.connections == 1

    run(scenario)


def test_a_post_is_not_repeated_when_a_kept_connection_closes(run: Run) -> None:
    requests: list[int] = []

    async def script(connection: Connection) -> None:
        await connection.request()
        requests.append(connection.number)
        await connection.send(answer(b"first"))
        await connection.request()
        requests.append(connection.number)

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            assert await body_of(client, server.post()) == b"first"
            with pytest.raises(FateUnknown):
                await body_of(client, server.post())
            assert requests == [1, 1]
            assert server.connections == 1

    run(scenario)


async def dropped_after_s(client: AiohttpClient, at_once: bytes, later: bytes) -> float:
    """Seconds until a connection was dropped that said something unasked, in one piece with an answer or later."""
    first_read = asyncio.Event()
    dropped = asyncio.get_running_loop().create_future()

    async def script(connection: Connection) -> None:
        await connection.request()
        if connection.number > 1:
            await connection.send(answer(b"second"))
            await connection.closed_after_s()
            return
        await connection.send(answer(b"first") + at_once)
        await first_read.wait()
        await connection.send(later)
        dropped.set_result(await connection.closed_after_s())

    async with serving(script) as server:
        assert await body_of(client, server.post()) == b"first"
        first_read.set()
        after_s = await dropped
        assert await body_of(client, server.post()) == b"second"
    return after_s


def test_an_answer_in_one_piece_with_the_end_of_another_is_dropped(run: Run) -> None:
    async def scenario() -> None:
        began, dropped = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def script(connection: Connection) -> None:
            await connection.request()
            if connection.number > 1:
                await connection.send(answer(b"second"))
                await connection.closed_after_s()
                return
            await connection.send(CHUNKED_HEAD + chunk(b"first"))
            await began.wait()
            await connection.send(b"0\r\n\r\n" + answer(b"poison"))
            dropped.set_result(await connection.closed_after_s())

        async with serving(script) as server, a_client() as client:
            async with client.post(server.post()) as response:
                began.set()
                assert await response.read(100) == b"first"
            assert await dropped < 0.2
            assert await body_of(client, server.post()) == b"second"

    run(scenario)


@pytest.mark.parametrize("unasked", [answer(b"poison"), b"HTTP/1.1 200 OK\r\nContent-", b"\r\n", b"x"])
def test_a_connection_that_speaks_while_idle_is_dropped(run: Run, unasked: bytes) -> None:
    async def scenario() -> None:
        async with a_client() as client:
            assert await dropped_after_s(client, b"", unasked) < 0.2

    run(scenario)


def test_a_second_answer_in_one_piece_with_the_first_is_dropped(run: Run) -> None:
    async def scenario() -> None:
        async with a_client() as client:
            assert await dropped_after_s(client, answer(b"poison"), b"") < 0.2
            assert await dropped_after_s(client, answer(b"poison")[:30], answer(b"poison")[30:]) < 0.2

    run(scenario)


def test_an_answer_during_the_upload_is_the_answer(run: Run) -> None:
    async def scenario() -> None:
        closed = asyncio.get_running_loop().create_future()

        async def script(connection: Connection) -> None:
            await connection.reader.readexactly(1_000)
            await connection.send(answer(b"too large", status="413 Content Too Large"))
            closed.set_result(await connection.closed_after_s())

        async with serving(script) as server, a_client() as client:
            async with client.post(server.post(b"x" * 64_000_000)) as response:
                assert response.status == 413
                assert await response.read(100) == b"too large"
            assert await closed < 0.2  # A connection that carries the rest of a request is of no more use.

    run(scenario)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tasks begin eagerly: the upload starts in the same step")
def test_a_kept_connection_closed_before_the_upload_is_never_sent(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"first"))
        await connection.closed_after_s()

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            assert await body_of(client, server.post()) == b"first"
            pools = client.session().connector
            assert pools is not None
            (pool,) = pools._conns.values()
            protocol, _ = pool[0]
            call = asyncio.create_task(body_of(client, server.post()))
            # The connection is taken in the call's first step; the upload begins in a later one.
            asyncio.get_running_loop().call_soon(protocol.close)
            with pytest.raises(NeverSent):
                await call
            assert server.connections == 1

    run(scenario)


def test_timeouts_after_the_upload_say_so(run: Run) -> None:
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.closed_after_s()

    async def stalls(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED_HEAD + chunk(b"one"))
        await connection.closed_after_s()

    async def drips(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED_HEAD)
        while True:
            await connection.send(chunk(b"drip"))
            await asyncio.sleep(0.02)

    async def scenario() -> None:
        for script, timeouts in (
            (silent, {"first_byte_timeout_s": 0.1}),
            (silent, {"total_timeout_s": 0.1}),
            (stalls, {"read_timeout_s": 0.1}),
            (drips, {"total_timeout_s": 0.2}),
        ):
            async with serving(script) as server, a_client() as client:
                with pytest.raises(UpstreamTimeout):
                    await body_of(client, server.post(b"{}", **timeouts))

    run(scenario)


def test_a_slow_first_byte_is_not_a_slow_read(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await asyncio.sleep(0.3)
        await connection.send(answer(b"ok"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            assert await body_of(client, server.post(read_timeout_s=0.1)) == b"ok"

    run(scenario)


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        CHUNKED_HEAD + chunk(b"half"),
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1_000 + b"\r\n",
        b"this is not HTTP\r\n\r\n",
        answer(b"longer than it says") + b"!",
    ],
)
def test_a_broken_answer_has_an_unknown_fate(run: Run, sent: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(sent)

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            with pytest.raises(FateUnknown):
                await body_of(client, server.post())

    run(scenario)


def test_an_answer_above_its_bound_is_not_read(run: Run) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(answer(b"x" * 1_000))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            async with client.post(server.post()) as response:
                with pytest.raises(FateUnknown):
                    await response.read(999)
            async with client.post(server.post()) as response:
                assert len(await response.read(1_000)) == 1_000

    run(scenario)


def test_cancelling_before_the_head_closes_the_socket_at_once(run: Run) -> None:
    async def scenario() -> None:
        arrived, closed = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def script(connection: Connection) -> None:
            await connection.request()
            arrived.set()
            closed.set_result(await connection.closed_after_s())

        async with serving(script) as server, a_client() as client:
            call = asyncio.create_task(body_of(client, server.post()))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await closed < 0.2

    run(scenario)


def test_cancelling_during_the_upload_closes_the_socket_at_once(run: Run) -> None:
    async def scenario() -> None:
        arrived, cancelled = asyncio.Event(), asyncio.Event()
        closed = asyncio.get_running_loop().create_future()

        async def script(connection: Connection) -> None:
            await connection.reader.readexactly(1_000)
            arrived.set()
            await cancelled.wait()
            closed.set_result(await connection.rest())

        async with serving(script) as server, a_client() as client:
            call = asyncio.create_task(body_of(client, server.post(b"x" * 64_000_000)))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            cancelled.set()
            after_s, size = await closed
            assert after_s < 0.2
            assert size < 40_000_000  # What was in flight, never the whole request.

    run(scenario)


@pytest.mark.parametrize("how", ["leave", "cancel"])
def test_ending_in_mid_body_closes_the_socket_at_once(run: Run, how: str) -> None:
    async def scenario() -> None:
        closed = asyncio.get_running_loop().create_future()
        began = asyncio.Event()

        async def script(connection: Connection) -> None:
            await connection.request()
            await connection.send(CHUNKED_HEAD + chunk(b"one"))
            closed.set_result(await connection.closed_after_s())

        async def call(client: AiohttpClient, server: Server) -> None:
            async with client.post(server.post()) as response:
                async for _ in response.chunks():
                    began.set()
                    if how == "leave":
                        return

        async with serving(script) as server, a_client() as client:
            task = asyncio.create_task(call(client, server))
            await began.wait()
            if how == "cancel":
                task.cancel()
            await asyncio.wait([task])
            assert await closed < 0.2
            assert server.connections == 1

    run(scenario)


def test_not_reading_holds_the_provider_back(run: Run) -> None:
    async def scenario() -> None:
        stalled = asyncio.get_running_loop().create_future()
        piece = chunk(b"x" * 100_000)

        async def script(connection: Connection) -> None:
            await connection.request()
            await connection.send(CHUNKED_HEAD)
            sent = 0
            try:
                while sent < 200_000_000:
                    await asyncio.wait_for(connection.send(piece), 0.3)
                    sent += len(piece)
            except TimeoutError:
                pass
            stalled.set_result(sent)
            await connection.closed_after_s()

        async with serving(script) as server, a_client() as client, client.post(server.post()) as response:
            chunks = response.chunks()
            await anext(chunks)
            assert await stalled < 50_000_000  # Both kernel buffers, and two of ours.

    run(scenario)


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


def test_tls_is_verified(run: Run, tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"ok"))

    async def scenario() -> None:
        right, trusting = tls_server(tmp_path, "IP:127.0.0.1")
        async with serving(script, right) as server, a_client(trusting) as client:
            assert await body_of(client, server.post()) == b"ok"
        async with serving(script, right) as server, a_client() as client:
            with pytest.raises(NeverSent, match="certificate"):
                await body_of(client, server.post())
        wrong, trusting = tls_server(tmp_path, "IP:127.0.0.2")
        async with serving(script, wrong) as server, a_client(trusting) as client:
            with pytest.raises(NeverSent, match="certificate"):
                await body_of(client, server.post())

    run(scenario)


def test_ending_in_mid_body_closes_a_tls_socket_at_once(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        closed = asyncio.get_running_loop().create_future()

        async def script(connection: Connection) -> None:
            await connection.request()
            await connection.send(CHUNKED_HEAD + chunk(b"one"))
            closed.set_result(await connection.closed_after_s())

        context, trusting = tls_server(tmp_path, "IP:127.0.0.1")
        async with serving(script, context) as server, a_client(trusting) as client:
            async with client.post(server.post()) as response:
                await anext(response.chunks())
            assert await closed < 0.2

    run(scenario)


def test_neither_keys_nor_urls_are_printed(run: Run) -> None:
    request = UpstreamRequest(url="http://127.0.0.1:1/?key=sk-in-url", headers={"Authorization": "sk-header"}, body=b"")

    async def scenario() -> None:
        async with a_client() as client:
            with pytest.raises(NeverSent) as caught:
                await body_of(client, request)
            assert "sk-" not in str(caught.value)

    assert "sk-header" not in repr(request)
    run(scenario)
