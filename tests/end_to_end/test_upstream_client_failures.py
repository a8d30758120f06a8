"""The contract of an upstream client: what fails, and whether anything was sent."""

import asyncio
from pathlib import Path

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
    tls_server,
)

from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamRequest


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return run_in(request.param)


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
        async with a_client() as client:
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


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        CHUNKED_HEAD + chunk(b"half"),
        CHUNKED_HEAD + chunk(b"half") + b"not a length\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nboth\r\n0\r\n\r\n",
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


def test_a_head_that_never_ends_is_not_read_on(run: Run) -> None:
    async def scenario() -> None:
        sent = asyncio.get_running_loop().create_future()

        async def script(connection: Connection) -> None:
            await connection.request()
            size = 0
            try:
                while size < 100_000_000:
                    await connection.send(b"HTTP/1.1 200 OK\r\nX: " if size == 0 else b"x" * 100_000)
                    size += 100_000
            except ConnectionError:
                pass
            sent.set_result(size)

        async with serving(script) as server, a_client() as client:
            with pytest.raises(FateUnknown):
                await body_of(client, server.post())
            assert await sent < 50_000_000  # What both kernel buffers hold.

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
