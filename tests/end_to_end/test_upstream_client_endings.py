"""The contract of an upstream client: calls that run out of time or are given up."""

import asyncio
import time
from pathlib import Path

import pytest
from upstream_rig import (
    CHUNKED_HEAD,
    LOOPS,
    Connection,
    Run,
    Server,
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

from spendfuse.upstream.client import NeverSent, UpstreamClient, UpstreamRequest, UpstreamTimeout


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return run_in(request.param)


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


def test_a_timeout_of_one_call_is_not_that_of_the_next(run: Run) -> None:
    async def script(connection: Connection) -> None:
        while True:
            _, body = await connection.request()
            if body == b"silence":
                await connection.closed_after_s()
                return
            await asyncio.sleep(float(body))
            await connection.send(answer(b"ok"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            assert await body_of(client, server.post(b"0", first_byte_timeout_s=0.1)) == b"ok"
            assert await body_of(client, server.post(b"0.2", first_byte_timeout_s=5.0)) == b"ok"
            began = time.monotonic()
            with pytest.raises(UpstreamTimeout):
                await body_of(client, server.post(b"silence", first_byte_timeout_s=0.1))
            assert time.monotonic() - began < 1.0
            assert server.connections == 1

    run(scenario)


def test_an_upload_that_never_ends_is_out_of_time_with_the_whole_call(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.readexactly(1_000)
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            with pytest.raises(UpstreamTimeout):
                await body_of(client, server.post(b"x" * 64_000_000, total_timeout_s=0.2))

    run(scenario)


def test_the_time_to_the_first_byte_begins_behind_the_upload(run: Run) -> None:
    async def script(connection: Connection) -> None:
        # Longer than the time to the first byte, while the kernel's buffers are full.
        await asyncio.sleep(0.7)
        await connection.request()
        await asyncio.sleep(0.3)
        await connection.send(answer(b"ok"))

    async def scenario() -> None:
        async with serving(script) as server, a_client() as client:
            request = server.post(b"x" * 20_000_000, first_byte_timeout_s=0.5, read_timeout_s=0.5)
            assert await body_of(client, request) == b"ok"

    run(scenario)


def test_a_call_that_takes_its_time_is_not_a_silent_upstream(run: Run) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"x" * 5_000_000))

    async def scenario() -> None:
        async with (
            serving(script) as server,
            a_client() as client,
            client.post(server.post(read_timeout_s=0.1)) as response,
        ):
            await asyncio.sleep(0.3)
            assert len(await response.read(5_000_000)) == 5_000_000

    run(scenario)


def test_cancelling_while_connecting_closes_the_socket_at_once(run: Run) -> None:
    async def scenario() -> None:
        with unanswering() as port:
            others = sockets_to(port)
            async with a_client() as client:
                call = asyncio.create_task(body_of(client, UpstreamRequest(f"http://127.0.0.1:{port}/", {}, b"{}")))
                await until(lambda: sockets_to(port) == others + 1)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                async with asyncio.timeout(0.2):
                    await until(lambda: sockets_to(port) == others)

    run(scenario)


def test_an_address_that_does_not_answer_is_never_sent(run: Run) -> None:
    async def scenario() -> None:
        with unanswering() as port:
            others = sockets_to(port)
            request = UpstreamRequest(f"http://127.0.0.1:{port}/", {}, b"{}", connect_timeout_s=0.1)
            async with a_client() as client:
                with pytest.raises(NeverSent):
                    await body_of(client, request)
                assert sockets_to(port) == others

    run(scenario)


def test_cancelling_during_the_handshake_closes_the_socket_at_once(run: Run) -> None:
    async def scenario() -> None:
        arrived, closed = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def silent(connection: Connection) -> None:
            await connection.reader.readexactly(1)
            arrived.set()
            closed.set_result(await connection.closed_after_s())

        async with serving(silent) as server, a_client() as client:
            server.url = server.url.replace("http:", "https:")
            call = asyncio.create_task(body_of(client, server.post()))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await closed < 0.2

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

        async def call(client: UpstreamClient, server: Server) -> None:
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
