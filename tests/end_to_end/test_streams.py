"""Streams through the real processes: targets that ignore their cap, clients that do not read, ends in the middle."""

import asyncio
import contextlib
import signal
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import httpx2
import openai
import orjson
import psutil
import pytest
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until
from ways import CHAT, WAYS, Way

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

PROMPT = "Tell me a long story."
HEADERS = CHAT.headers
BODY = CHAT.body(PROMPT, max_tokens=None, stream=True)
CAP = 100
TOKENS_PER_S = 500
FIRST_OVERSHOOT_TOKENS_MAX, OVERSHOOT_TOKENS_MAX = 750, 150
"""1.5 s and 0.3 s of this target: the first stream of a process that is suspected waits for the vocabulary to load."""
MIB = 2**20
CALL_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def _estimates(gateway: RunningGateway) -> list[bool]:
    """Whether each entry is an estimate."""
    with closing(sqlite3.connect(f"file:{gateway.database}?mode=ro", uri=True)) as connection:
        return [bool(one) for (one,) in connection.execute("SELECT is_estimated FROM entry")]


def _sdk_stream(gateway: RunningGateway, way: Way, *, user: str = "u", cap: int = CAP) -> tuple[str, int]:
    """Stream with the official SDK of the way's dialect; why it ended and the output tokens that the client was told.

    Raises what the SDK raises of a stream that it can't take for whole.
    """
    if way.is_messages:
        root = gateway.base_url.removesuffix("/v1")
        events: list[str] = []
        with (
            anthropic.Anthropic(base_url=root, api_key=APP_KEY, max_retries=0) as client,
            client.messages.stream(
                model=way.model,
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=cap,
                metadata={"user_id": user},
            ) as stream,
        ):
            for event in stream:
                events.append(event.type)
            message = stream.get_final_message()
        assert events[-1] == "message_stop"
        assert events.count("content_block_start") == events.count("content_block_stop") == len(message.content)
        return str(message.stop_reason), message.usage.output_tokens
    with openai.OpenAI(base_url=gateway.base_url, api_key=APP_KEY, max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(
                model=way.model,
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=cap,
                stream=True,
                stream_options={"include_usage": True},
                user=user,
            )
        )
    told: Any = chunks[-1].usage
    (reason,) = [choice.finish_reason for one in chunks for choice in one.choices if choice.finish_reason]
    return reason, told.completion_tokens


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_target_that_ignores_its_cap_is_stopped_soon_and_the_sdk_sees_a_whole_stream(
    way: Way, tmp_path: Path
) -> None:
    behaviour = Behaviour(output_tokens=20_000, chunk_tokens=5, chunk_interval_s=5 / TOKENS_PER_S, ignore_cap=True)
    limits = "limits: {few: {output_tokens: 300, per: lifetime, each: user}}"
    # Tokens of a vocabulary that we do not hold are certain to be above a cap once there are twice as many of ours.
    unsure_tokens = 0 if way is CHAT else CAP
    with (
        running_simulator(behaviour) as simulator,
        running_gateway(config_text(simulator, limits=limits), tmp_path) as gateway,
    ):
        billed_before = 0
        for number, overshoot_max in enumerate((FIRST_OVERSHOOT_TOKENS_MAX, OVERSHOOT_TOKENS_MAX), start=1):
            reason, told = _sdk_stream(gateway, way, user=f"u{number}")
            assert reason == ("max_tokens" if way.is_messages else "length")
            billed = simulator.bill(wait_idle_s=5).output_tokens - billed_before
            billed_before += billed
            print(f"\n{way} stream {number}: {billed - CAP} output tokens billed above the cap of {CAP}")
            assert 0 < billed - CAP <= overshoot_max + unsure_tokens
            # Only what was made after the last token that was seen is in no entry.
            assert CAP < told <= billed
            if way is CHAT:
                assert billed <= told + OVERSHOOT_TOKENS_MAX
        assert simulator.bill().calls.get("cancelled") == 2
        wait_until(lambda: gateway.totals().entries == 2, 5, "the streams are settled")
        assert _estimates(gateway) == [True, True]
        gateway.run("audit")


SDK_FAILURES = (
    openai.APIConnectionError,
    anthropic.APIConnectionError,
    httpx2.RemoteProtocolError,
)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_upstream_that_dies_midway_leaves_a_broken_stream_and_an_estimate(way: Way, tmp_path: Path) -> None:
    behaviour = Behaviour(output_tokens=500, chunk_interval_s=0.005, disconnect_after_tokens=100)
    with (
        running_simulator(behaviour) as simulator,
        running_gateway(config_text(simulator), tmp_path) as gateway,
    ):
        with pytest.raises(SDK_FAILURES):
            _sdk_stream(gateway, way, cap=400)
        broken = asyncio.run(_broken_off(gateway, way))
        assert broken is not None, "it ended like a whole one"
        # Nothing that was seen is missing, and nothing was made up.
        assert broken.count(b" token") == 100
        assert not any(mark in broken for mark in ENDS)
        bill = simulator.bill(wait_idle_s=5)
        wait_until(lambda: gateway.totals().entries == 2, 5, "both streams are settled")
        assert _estimates(gateway) == [True, True]
        assert bill.nanos <= gateway.totals().settled
        gateway.run("audit")


ENDS = (b"[DONE]", b"message_stop", b'"finish_reason":"', b'"stop_reason":"')


async def _broken_off(gateway: RunningGateway, way: Way) -> bytes | None:
    """What a stream has sent when its HTTP body breaks off; None when it ends."""
    body = b""
    async with (
        aiohttp.ClientSession(headers=way.headers) as session,
        session.post(f"{gateway.base_url}/{way.path}", json=way.body(PROMPT, max_tokens=400, stream=True)) as response,
    ):
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except aiohttp.ClientPayloadError:
            return body
    return None


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_error_amid_a_stream_reaches_the_sdk_and_what_came_before_it_is_charged(way: Way, tmp_path: Path) -> None:
    behaviour = Behaviour(output_tokens=500, chunk_interval_s=0.005, stream_error_after_tokens=100)
    with (
        running_simulator(behaviour) as simulator,
        running_gateway(config_text(simulator), tmp_path) as gateway,
    ):
        with pytest.raises((openai.APIError, anthropic.APIStatusError)) as raised:
            _sdk_stream(gateway, way, cap=400)
        if way is not CHAT:
            assert "Overloaded" in str(raised.value)
        if way.is_messages:
            assert isinstance(raised.value, anthropic.APIStatusError)
        bill = simulator.bill(wait_idle_s=5)
        wait_until(lambda: gateway.totals().entries == 1, 5, "the stream is settled")
        assert _estimates(gateway) == [True]
        assert bill.output_tokens == 100
        assert 0 < bill.nanos <= gateway.totals().settled
        gateway.run("audit")


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_stream_without_usage_is_whole_and_charged_at_no_less_than_its_bill(way: Way, tmp_path: Path) -> None:
    behaviour = Behaviour(output_tokens=60, omit_stream_usage=True)
    with (
        running_simulator(behaviour) as simulator,
        running_gateway(config_text(simulator), tmp_path) as gateway,
    ):
        body = way.body(PROMPT, max_tokens=400, stream=True)
        answer = httpx2.post(f"{gateway.base_url}/{way.path}", json=body, headers=way.headers)
        assert answer.content.rstrip().endswith(b'{"type":"message_stop"}' if way.is_messages else b"data: [DONE]")
        bill = simulator.bill(wait_idle_s=5)
        wait_until(lambda: gateway.totals().entries == 1, 5, "the stream is settled")
        assert _estimates(gateway) == [True]
        assert bill.nanos <= gateway.totals().settled
        gateway.run("audit")


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_stream_under_way_outlives_sigterm_and_settles_exactly(way: Way, tmp_path: Path) -> None:
    behaviour = Behaviour(output_tokens=200, chunk_interval_s=0.05)
    with (
        running_simulator(behaviour) as simulator,
        running_gateway(config_text(simulator), tmp_path) as gateway,
    ):

        async def stop_midway() -> bytes:
            body = way.body(PROMPT, max_tokens=None, stream=True)
            async with (
                aiohttp.ClientSession(headers=way.headers) as session,
                session.post(f"{gateway.base_url}/{way.path}", json=body) as response,
            ):
                first = await response.content.readuntil(b"\n\n")
                gateway.process.send_signal(signal.SIGTERM)
                return first + await response.content.read()

        body = asyncio.run(stop_midway())
        assert body.rstrip().endswith(b'{"type":"message_stop"}' if way.is_messages else b"data: [DONE]")
        assert gateway.process.wait(10) == 0
        assert gateway.totals().open_reservations == 0
        assert _estimates(gateway) == [False]
        assert gateway.totals().settled == simulator.bill(wait_idle_s=5).nanos


class Torrent:
    """An upstream that streams as much as is taken from it, and counts what it got rid of."""

    def __init__(self, size_bytes: int) -> None:
        # Like OpenAI's obfuscation: bytes that are no output.
        padding = "x" * 8_000
        choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
        self._event = b"data: " + orjson.dumps({"id": "c", "choices": [choice], "obfuscation": padding}) + b"\n\n"
        self.events = size_bytes // len(self._event)
        self.sent_bytes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(self.events):
                writer.write(self._event)
                await writer.drain()
                self.sent_bytes += len(self._event)
            writer.write(b"data: [DONE]\n\n")
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def _raw_upstream(torrent: Torrent) -> AsyncGenerator[int]:
    server = await asyncio.start_server(torrent.serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _rss_bytes(pid: int) -> int:
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


async def _at_rest(torrent: Torrent) -> int:
    """Wait until nothing more is taken from the upstream; what it got rid of by then."""
    ends_at = time.monotonic() + 20
    while time.monotonic() < ends_at:
        before = torrent.sent_bytes
        await asyncio.sleep(0.5)
        if before and torrent.sent_bytes == before:
            return before
    raise AssertionError("the gateway never stops reading its upstream")


def test_a_client_that_stops_reading_makes_the_gateway_stop_reading(tmp_path: Path) -> None:
    torrent = Torrent(64 * MIB)

    async def stall_and_go_on(gateway: RunningGateway) -> None:
        rss_before = _rss_bytes(gateway.process.pid)
        async with (
            aiohttp.ClientSession(headers=HEADERS) as session,
            session.post(f"{gateway.base_url}/chat/completions", json=BODY) as response,
        ):
            stalled_at = await _at_rest(torrent)
            rss_grown = _rss_bytes(gateway.process.pid) - rss_before
            print(f"\nstalled after {stalled_at / MIB:.1f} MiB, RSS +{rss_grown / MIB:.1f} MiB")
            assert stalled_at < 24 * MIB
            assert rss_grown < 16 * MIB
            body = await response.content.read()
        # It went on where it stopped, and nothing was lost.
        assert body.count(b"data: ") == torrent.events + 1

    async def run() -> None:
        async with _raw_upstream(torrent) as port:
            config = config_text(RunningSimulator(f"http://127.0.0.1:{port}/v1", 0))
            with running_gateway(config, tmp_path) as gateway:
                await stall_and_go_on(gateway)

    asyncio.run(run())


async def _connections_to_both_workers(
    gateway: RunningGateway, stack: contextlib.AsyncExitStack
) -> list[aiohttp.ClientSession]:
    """A kept connection to each of two workers, told apart by the owner in their calls' ids."""
    sessions: dict[int, aiohttp.ClientSession] = {}
    for _ in range(60):
        connector = aiohttp.TCPConnector(limit=1)
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=HEADERS, connector=connector))
        async with session.post(f"{gateway.base_url}/chat/completions", json=_waiting_body(1)) as response:
            await response.read()
            number = 0
            for character in response.headers["x-spendfuse-call-id"]:
                number = number * 32 + CALL_ID_ALPHABET.index(character)
            sessions[number >> 12 & 1_023] = session
        if len(sessions) == 2:
            return list(sessions.values())
    raise AssertionError("all connections went to one worker")


def _waiting_body(cap: int) -> dict[str, object]:
    return {**BODY, "stream": False, "max_tokens": cap}


@pytest.mark.parametrize("holder", [0, 1])
def test_who_waits_in_one_worker_is_woken_by_what_settles_in_the_other(holder: int, tmp_path: Path) -> None:
    latency_s = 0.5
    limits = "limits: {room: {output_tokens: 1000, per: lifetime, fit: false}}\nbusy_wait: 10s"

    async def run(simulator: RunningSimulator, gateway: RunningGateway) -> None:
        async with contextlib.AsyncExitStack() as stack:
            sessions = await _connections_to_both_workers(gateway, stack)
            simulator.set_behaviour(Behaviour(output_tokens=5, latency_s=latency_s))
            running_before = simulator.bill().calls.get("completed", 0)

            async def call(session: aiohttp.ClientSession) -> float:
                async with session.post(f"{gateway.base_url}/chat/completions", json=_waiting_body(600)) as response:
                    assert response.status == 200, await response.text()
                    await response.read()
                    return time.monotonic()

            first = asyncio.create_task(call(sessions[holder]))
            while simulator.bill().calls.get("running", 0) == 0:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(call(sessions[1 - holder]))
            first_ended_at, second_ended_at = await asyncio.gather(first, second)
            woken_after_s = second_ended_at - first_ended_at - latency_s
            print(f"\nadmitted {woken_after_s * 1_000:.0f} ms after the other worker's call had ended")
            assert 0 <= woken_after_s < 0.5
            assert simulator.bill().calls.get("completed", 0) == running_before + 2

    with (
        running_simulator(Behaviour(output_tokens=1)) as simulator,
        running_gateway(config_text(simulator, limits=limits), tmp_path, workers=2) as gateway,
    ):
        asyncio.run(run(simulator, gateway))
