"""What the upstream client of our own promises beyond the contract of all."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from upstream_rig import (
    CHUNKED_HEAD,
    LOOPS,
    Connection,
    Run,
    a_client,
    answer,
    body_of,
    chunk,
    run_in,
    serving,
    sockets_to,
    tls_server,
    unanswering,
    until,
)

from spendfuse.upstream import dialing, pool
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamRequest
from spendfuse.upstream.connection import READ_BUFFER_BYTES
from spendfuse.upstream.http_client import HttpClient
from spendfuse.upstream.http_response import HttpResponse

LOOP_READ_BYTES_MAX = 262_144


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return run_in(request.param)


def test_no_connection_within_the_whole_time_is_never_sent(run: Run) -> None:
    async def scenario() -> None:
        with unanswering() as port:
            async with a_client() as client:
                with pytest.raises(NeverSent):
                    await body_of(client, UpstreamRequest(f"http://127.0.0.1:{port}/", {}, b"{}", total_timeout_s=0.1))

    run(scenario)


def test_a_kept_connection_that_takes_no_byte_any_more_is_never_sent(run: Run) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            request = UpstreamRequest(f"http://127.0.0.1:{listener.getsockname()[1]}/", {}, b"{}")
            async with a_client() as client:
                call = asyncio.create_task(body_of(client, request))
                peer, _ = await loop.sock_accept(listener)
                await loop.sock_recv(peer, 1_000)
                await loop.sock_sendall(peer, answer(b"first"))
                assert await call == b"first"
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()  # With a reset, of which our event loop has not heard when the next call begins.
                with pytest.raises(NeverSent):
                    await body_of(client, request)

    run(scenario)


def test_a_connection_lost_during_a_tls_upload_is_never_sent(run: Run, tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.readexactly(10_000)
        connection.writer.transport.abort()

    async def scenario() -> None:
        context, trusting = tls_server(tmp_path, "IP:127.0.0.1")
        async with serving(script, context) as server, a_client(trusting) as client:
            with pytest.raises(NeverSent):
                await body_of(client, server.post(b"x" * 64_000_000))

    run(scenario)


def test_a_switch_of_protocols_has_an_unknown_fate(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nbytes")
        await connection.closed_after_s()

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            with pytest.raises(FateUnknown, match="switches protocols"):
                await body_of(client, server.post())

    run(scenario)


def test_what_came_before_a_break_can_be_taken(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED_HEAD + chunk(b"half") + b"not a length\r\n")

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client, client.post(server.post()) as response:
            chunks = response.chunks()
            assert await anext(chunks) == b"half"
            with pytest.raises(FateUnknown, match="broken"):
                await anext(chunks)

    run(scenario)


def test_an_answer_that_is_not_read_is_not_held_in_memory(run: Run) -> None:
    async def scenario() -> None:
        stalled = asyncio.Event()
        whole = chunk(b"x" * 50_000) * 1_000

        async def script(connection: Connection) -> None:
            await connection.request()
            connection.writer.write(CHUNKED_HEAD + whole + b"0\r\n\r\n")
            unsent = -1
            while unsent != (unsent := connection.writer.transport.get_write_buffer_size()):
                await asyncio.sleep(0.1)
            stalled.set()
            await connection.closed_after_s()

        async with serving(script) as server, a_client() as client, client.post(server.post()) as response:
            assert isinstance(response, HttpResponse)
            await stalled.wait()
            assert READ_BUFFER_BYTES < response.size <= READ_BUFFER_BYTES + LOOP_READ_BYTES_MAX
            assert len(await response.read(50_000_000)) == 50_000_000

    run(scenario)


def test_closing_the_client_ends_calls_and_kept_connections(run: Run) -> None:
    async def scenario() -> None:
        closed = asyncio.Queue[float]()

        async def script(connection: Connection) -> None:
            _, body = await connection.request()
            await connection.send(answer(b"ok") if body == b"kept" else CHUNKED_HEAD + chunk(b"one"))
            await closed.put(await connection.closed_after_s())

        async with serving(script) as server, a_client() as client:
            async with client.post(server.post(b"open")) as response:
                assert await anext(response.chunks()) == b"one"
                assert await body_of(client, server.post(b"kept")) == b"ok"
                await client.close()
                with pytest.raises(FateUnknown):
                    await response.read(100)
            for _ in range(2):
                assert await closed.get() < 0.2

    run(scenario)


def test_idle_connections_expire(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEEPALIVE_S", 0.2)

    async def scenario() -> None:
        expired = asyncio.Queue[float]()

        async def script(connection: Connection) -> None:
            await connection.request()
            await connection.send(answer(b"ok"))
            await expired.put(await connection.closed_after_s())

        async with serving(script) as server, a_client() as client:
            assert await asyncio.gather(*(body_of(client, server.post()) for _ in range(3))) == [b"ok"] * 3
            for _ in range(3):
                assert 0.15 < await expired.get() < 1.0
            assert server.connections == 3

    run(scenario)


def test_a_kept_connection_that_is_just_closing_is_passed_over(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"ok"))
        await connection.closed_after_s()

    async def scenario() -> None:
        async with serving(script) as server:
            client = HttpClient()
            assert await body_of(client, server.post()) == b"ok"
            (idle,) = client._pool._idle.values()
            idle[0].abort()  # The event loop reports the loss in its next turn only.
            assert await body_of(client, server.post()) == b"ok"
            assert server.connections == 2
            idle[0].abort()
            await until(lambda: not idle)
            await client.close()

    run(scenario)


Addresses = Callable[[object], Awaitable[list[dialing._Address]]]


def resolving_to(*ports: int) -> Addresses:
    """In place of a resolver: 127.0.0.1 with each of these ports."""

    async def resolved(_origin: object) -> list[dialing._Address]:
        return [dialing._Address(socket.AF_INET, ("127.0.0.1", port)) for port in ports]

    return resolved


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_an_address_that_does_not_answer_is_overtaken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"ok"))

    async def scenario() -> None:
        with unanswering() as silent:
            others = sockets_to(silent)
            async with serving(script) as server, a_client() as client:
                port = port_of(server.url)
                monkeypatch.setattr(dialing, "_resolved", resolving_to(silent, closed_port(), port))
                began = time.monotonic()
                assert await body_of(client, server.post()) == b"ok"
                assert time.monotonic() - began < 2.0
                await until(lambda: sockets_to(silent) == others)

    run(scenario)


def test_an_address_that_refuses_is_passed_over_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "_NEXT_ADDRESS_AFTER_S", 60.0)

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"ok"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            port = port_of(server.url)
            monkeypatch.setattr(dialing, "_resolved", resolving_to(closed_port(), closed_port(), port))
            assert await body_of(client, server.post()) == b"ok"
            monkeypatch.setattr(dialing, "_resolved", resolving_to(closed_port(), closed_port()))
        async with a_client() as client:
            with pytest.raises(NeverSent, match="Connect"):
                await body_of(client, server.post())

    run(scenario)


def test_cancelling_the_race_of_addresses_closes_every_socket(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with unanswering() as one, unanswering() as other:
            monkeypatch.setattr(dialing, "_resolved", resolving_to(one, other))
            before = sockets_to(one), sockets_to(other)
            async with a_client() as client:
                call = asyncio.create_task(body_of(client, UpstreamRequest("http://host.test/", {}, b"{}")))
                await until(lambda: (sockets_to(one), sockets_to(other)) == (before[0] + 1, before[1] + 1))
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                async with asyncio.timeout(0.2):
                    await until(lambda: (sockets_to(one), sockets_to(other)) == before)

    run(scenario)


def test_of_addresses_that_answer_together_one_is_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        sockets = [socket.socket(), socket.socket()]
        asked: list[object] = []
        both_asked = asyncio.Event()

        async def connected(address: object) -> socket.socket:
            sock = sockets[len(asked)]
            asked.append(address)
            if len(asked) == 2:
                both_asked.set()
            await both_asked.wait()
            return sock

        monkeypatch.setattr(dialing, "_NEXT_ADDRESS_AFTER_S", 0.0)
        monkeypatch.setattr(dialing, "_connected_to", connected)
        with await dialing._connected(await resolving_to(1, 2)(None)) as winner:
            (loser,) = [sock for sock in sockets if sock is not winner]
            assert winner.fileno() != -1
            await until(lambda: loser.fileno() == -1)

    run(scenario)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cancelling_at_any_step_leaves_no_socket(run: Run, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    async def silent(connection: Connection) -> None:
        await connection.closed_after_s()

    async def scenario() -> None:
        async with serving(silent) as server, a_client() as client:
            port = port_of(server.url)
            monkeypatch.setattr(dialing, "_resolved", resolving_to(port))
            server.url = server.url.replace("http:", f"{scheme}:")
            for steps in range(12):
                call = asyncio.create_task(body_of(client, server.post()))
                for _ in range(steps):
                    await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                async with asyncio.timeout(0.2):
                    await until(lambda: sockets_to(port) == 0)

    run(scenario)
