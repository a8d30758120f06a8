"""The contract of an upstream client: which connections are kept, and which dropped."""

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

from spendfuse.upstream.client import FateUnknown, UpstreamClient


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return run_in(request.param)


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


def test_calls_side_by_side_get_their_own_answers(run: Run) -> None:
    async def script(connection: Connection) -> None:
        while True:
            _, body = await connection.request()
            await connection.send(CHUNKED_HEAD + chunk(body[:1]))
            await connection.send(chunk(body[1:]) + b"0\r\n\r\n")

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:

            async def caller(number: int) -> None:
                for turn in range(20):
                    body = f"{number}.{turn}".encode()
                    assert await body_of(client, server.post(body)) == body

            await asyncio.gather(*(caller(number) for number in range(32)))
            assert server.connections <= 32

    run(scenario)


def test_tls_connections_are_kept_and_carry_large_bodies(run: Run, tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while True:
            _, body = await connection.request()
            await connection.send(answer(body))

    async def scenario() -> None:
        context, trusting = tls_server(tmp_path, "IP:127.0.0.1")
        async with serving(script, context) as server, a_client(trusting) as client:
            for body in (b"first", bytes(range(256)) * 4_000, b"last"):
                assert await body_of(client, server.post(body)) == body
            assert server.connections == 1

    run(scenario)


@pytest.mark.parametrize(
    "bodyless", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"]
)
def test_an_answer_without_a_body_keeps_its_connection(run: Run, bodyless: bytes) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(bodyless)

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for _ in range(3):
                assert await body_of(client, server.post()) == b""
            assert server.connections == 1

    run(scenario)


def test_trailers_are_not_headers_of_the_next_answer(run: Run) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(CHUNKED_HEAD + chunk(b"ok") + b"0\r\nX-Late: 1\r\nX-Later: 2\r\n\r\n")

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for _ in range(2):
                async with client.post(server.post()) as response:
                    assert await response.read(10) == b"ok"
                    assert not {"x-late", "x-later"} & {name.lower() for name in response.headers}
            assert server.connections == 1

    run(scenario)


@pytest.mark.parametrize("sent", [answer(b"ok", "Connection: close"), answer(b"ok").replace(b"1.1", b"1.0", 1)])
def test_a_connection_that_its_server_will_close_is_not_reused(run: Run, sent: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(sent)
        await connection.closed_after_s()

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            for number in (1, 2):
                assert await body_of(client, server.post()) == b"ok"
                assert server.connections == number

    run(scenario)


def test_a_kept_connection_that_its_server_has_closed_is_left(run: Run) -> None:
    async def scenario() -> None:
        left = asyncio.Event()

        async def script(connection: Connection) -> None:
            await connection.request()
            await connection.send(answer(b"ok"))
            if connection.number == 1:
                connection.writer.write_eof()
                await connection.closed_after_s()
                left.set()

        async with serving(script) as server, a_client() as client:
            assert await body_of(client, server.post()) == b"ok"
            await left.wait()
            assert await body_of(client, server.post()) == b"ok"
            assert server.connections == 2

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


async def dropped_after_s(client: UpstreamClient, at_once: bytes, later: bytes) -> float:
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
