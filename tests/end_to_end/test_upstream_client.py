"""The contract of an upstream client: what is sent, and how answers arrive."""

import asyncio

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
)

from spendfuse.upstream.client import FateUnknown, UpstreamRequest


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return run_in(request.param)


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


def test_large_bodies_are_sent_whole_to_a_server_that_falls_behind(run: Run) -> None:
    body = bytes(range(256)) * 40_000

    async def script(connection: Connection) -> None:
        while True:
            _, received = await connection.request()
            await connection.send(answer(b"%d" % (received == body)))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for _ in range(2):
                assert await body_of(client, server.post(body)) == b"1"
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


def test_headers_of_an_answer_are_all_kept(run: Run) -> None:
    sent = (
        b"HTTP/1.1 200 OK\r\nX-Limit: a \r\nx-limit: b\r\nX-Empty:\r\nX-Latin: caf\xe9\r\n"
        b"X-Utf: caf\xc3\xa9\r\nContent-Length: 0\r\n\r\n"
    )

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(sent)

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client, client.post(server.post()) as response:
            headers = response.headers
            assert list(headers.items())[:3] == [("X-Limit", "a"), ("x-limit", "b"), ("X-Empty", "")]
            assert headers.get("X-LIMIT") == "a"
            assert headers.get("absent", "nothing") == "nothing"
            assert "absent" not in headers
            assert headers["x-latin"].encode("utf-8", "surrogateescape") == b"caf\xe9"
            assert headers["x-utf"] == "café"

    run(scenario)


def test_headers_of_a_call_replace_the_defaults(run: Run) -> None:
    async def script(connection: Connection) -> None:
        head, _ = await connection.request()
        await connection.send(answer(b"\n".join(sorted(head.lower().split(b"\r\n")))))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            headers = {"user-agent": "mine/1", "X-Utf": "café"}
            echoed = await body_of(client, UpstreamRequest(server.url + "?a=b%20c", headers, b"{}"))
            lines = echoed.decode().split("\n")
            assert {"user-agent: mine/1", "x-utf: café", "content-length: 2"} <= set(lines)
            assert sum(line.startswith("user-agent:") for line in lines) == 1
            assert "post /v1/chat/completions?a=b%20c http/1.1" in lines
            assert f"host: {server.url.split('/')[2]}" in lines

    run(scenario)


@pytest.mark.parametrize("size", [0, 300_000])
def test_a_body_without_a_length_ends_with_the_connection(run: Run, size: int) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * size)

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for _ in range(2):
                assert await body_of(client, server.post()) == b"x" * size
            assert server.connections == 2

    run(scenario)


def test_interim_answers_are_skipped(run: Run) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(b"ok"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for _ in range(2):
                async with client.post(server.post()) as response:
                    assert response.status == 200
                    assert "link" not in response.headers
                    assert await response.read(10) == b"ok"
            assert server.connections == 1

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
