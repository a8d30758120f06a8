"""Clients that leave, pipeline or stop reading, over real sockets. The app behind the server is `served.App`."""

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from raw_http import RawClient, ask, get, post
from served import CHUNK, LARGE_CHUNKS, Served, served

MIB = 1024 * 1024
RSS_GROWTH_MAX = 6 * MIB
SEEN_WITHIN_S = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(limits={"body_timeout_s": 0.3}) as running:
        yield running


def wait_until_no_more_is_sent(server: Served) -> int:
    """How many chunks of `/large` have been sent, once that number stands still for a fifth of a second."""
    sent, stands_since = -1, time.monotonic()
    while time.monotonic() - stands_since < 0.2:
        now_sent = ask(server.port, get("/sent")).json["chunks"]
        if now_sent != sent:
            sent, stands_since = now_sent, time.monotonic()
        time.sleep(0.02)
    return sent


def wait_until_all_is_sent(server: Served) -> None:
    """An app whose client does not read gets on only once the connection is cut: what it sends then goes nowhere."""
    deadline = time.monotonic() + 5
    while ask(server.port, get("/sent")).json["chunks"] < LARGE_CHUNKS:
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A client that leaves


def leave(client: RawClient) -> None:
    client.close()


def reset(client: RawClient) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_close(client: RawClient) -> None:
    client.socket.shutdown(socket.SHUT_WR)


def pipeline_and_leave(client: RawClient) -> None:
    client.send(post("/echo", b"x" * 200_000))
    client.close()


WAYS_TO_LEAVE = pytest.mark.parametrize("leaving", [leave, reset, half_close, pipeline_and_leave])


def assert_seen_leaving(server: Served, name: str, client: RawClient, leaving: Callable[[RawClient], None]) -> None:
    left_at = time.monotonic()
    leaving(client)
    seen_at = ask(server.port, get(f"/gone?name={name}")).json["at"]
    assert 0 <= seen_at - left_at < SEEN_WITHIN_S


@WAYS_TO_LEAVE
def test_the_app_sees_a_client_leave_while_it_waits(server: Served, leaving: Callable[[RawClient], None]) -> None:
    name = f"wait-{leaving.__name__}"
    with RawClient(server.port) as client:
        client.send(post(f"/wait?name={name}", b"hello"))
        assert_seen_leaving(server, name, client, leaving)


@WAYS_TO_LEAVE
def test_the_app_sees_a_client_leave_in_mid_stream(server: Served, leaving: Callable[[RawClient], None]) -> None:
    name = f"stream-{leaving.__name__}"
    with RawClient(server.port) as client:
        client.send(post(f"/stream?name={name}&chunks=1000", b"hello"))
        client.read_until(b"chunk 1\r\n")
        assert_seen_leaving(server, name, client, leaving)


def test_a_client_that_half_closes_and_reads_no_more_counts_as_gone(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(get("/large"))
        client.read_until(b"\r\n\r\n")
        wait_until_no_more_is_sent(server)
        half_close(client)
        wait_until_all_is_sent(server)


def test_the_app_sees_a_call_end_whose_body_stops_half_way_though_the_client_stays(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(post("/wait?name=half", b"hello").removesuffix(b"llo"))
        assert client.read_answer().status == 408
        answered_at = time.monotonic()
        seen_at = ask(server.port, get("/gone?name=half")).json["at"]
        assert seen_at - answered_at < SEEN_WITHIN_S


def test_a_large_request_does_not_hide_the_clients_leaving(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(post("/wait?name=large", b"x" * MIB))
        assert_seen_leaving(server, "large", client, leave)


# Pipelining


def test_a_request_pipelined_into_a_call_is_dropped_and_the_connection_closes(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(post("/wait?name=pipelined&s=0.2", b"hello"))
        client.send(post("/echo", b"dropped"))
        assert client.read_answer().json == {"waited": True}
        assert client.read_to_close() == b""


def test_a_request_pipelined_in_the_same_packet_is_dropped_and_the_close_announced(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(post("/echo", b"hello"), post("/echo", b"dropped"))
        answer = client.read_answer()
        assert (answer.json["body_bytes"], answer.headers["connection"]) == (5, "close")
        assert client.read_to_close() == b""


def test_a_request_pipelined_into_a_stream_lets_the_stream_complete(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(post("/stream?name=whole&chunks=5", b"hello"))
        client.read_until(b"\r\n\r\n")
        client.send(post("/echo", b"dropped"))
        chunks = list(iter(client.read_chunk, b""))
        assert chunks == [b"chunk %d" % number for number in range(5)]
        assert client.read_to_close() == b""


def test_calls_whose_clients_left_are_not_logged_as_failures() -> None:
    with served() as quiet:
        for name in ("wait", "stream"):
            with RawClient(quiet.port) as client:
                client.send(post(f"/{name}?name={name}&chunks=1000&s=60", b"hello"))
            assert ask(quiet.port, get(f"/gone?name={name}")).status == 200
        quiet.process.terminate()
        code, _, logged = quiet.end()
        assert (code, logged) == (0, "")


# A client that is slow to read


def test_a_stalled_reader_of_50_mb_stops_the_app_and_takes_no_memory(server: Served) -> None:
    ask(server.port, get("/echo"))
    rss_before = server.rss_bytes
    with RawClient(server.port) as client:
        client.send(get("/large"))
        client.read_until(b"\r\n\r\n")
        assert 0 < wait_until_no_more_is_sent(server) < LARGE_CHUNKS
        assert server.rss_bytes - rss_before < RSS_GROWTH_MAX
        received = sum(len(chunk) for chunk in iter(client.read_chunk, b""))
        assert received == LARGE_CHUNKS * len(CHUNK)
    assert server.rss_bytes - rss_before < RSS_GROWTH_MAX


def test_a_client_that_stops_reading_is_cut_in_the_end() -> None:
    with served(limits={"stalled_write_s": 0.4}) as impatient, RawClient(impatient.port) as client:
        client.send(get("/large"))
        client.read_until(b"\r\n\r\n")
        wait_until_all_is_sent(impatient)
        assert len(client.read_to_close()) < LARGE_CHUNKS * len(CHUNK)
