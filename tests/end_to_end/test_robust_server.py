"""What hostile and broken clients do to the server, over real sockets. The app behind it is `served.App`."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest
from raw_http import Answer, RawClient, ask, get, post
from served import Served, served

MIB = 1024 * 1024
RSS_GROWTH_MAX = 6 * MIB
HEAD_TIMEOUT_S = 0.4
BODY_TIMEOUT_S = 0.6
SEEN_WITHIN_S = 0.5

LIMITS: dict[str, float] = {
    "head_timeout_s": HEAD_TIMEOUT_S,
    "body_timeout_s": BODY_TIMEOUT_S,
    "body_bytes_per_s_min": MIB,
    "body_bytes_max": 2 * MIB,
    "keep_alive_s": 0.5,
    "linger_s": 0.3,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(limits=LIMITS) as running:
        yield running


def request(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /echo HTTP/1.1", b"Host: test", *lines)) + b"\r\n\r\n" + body


def ask_and_see_the_end(server: Served, data: bytes) -> Answer:
    """The answer to a request after which the connection must end."""
    with RawClient(server.port) as client:
        client.send(data)
        answer = client.read_answer()
        assert client.read_to_close() == b""
        return answer


# Framing


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            request(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
            id="content-length-and-transfer-encoding",
        ),
        pytest.param(request(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), id="two-content-lengths"),
        pytest.param(request(b"Content-Length: +5", body=b"hello"), id="signed-content-length"),
        pytest.param(request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), id="unknown-transfer-encoding"),
        pytest.param(request(b"X-Name : value"), id="space-before-colon"),
        pytest.param(request(b"X-Name: value", b" folded"), id="folded-header"),
        pytest.param(request(b"X-Name: a\rb"), id="bare-cr"),
        pytest.param(request(b"X-Name: a\0b"), id="nul"),
        pytest.param(b"POST /echo HTTP/1.1\nHost: test\n\n", id="bare-lf"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="tls-hello"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http2-preface"),
        pytest.param(b"CONNECT upstream:443 HTTP/1.1\r\nHost: test\r\n\r\n", id="connect"),
        pytest.param(b"GET \xff/ HTTP/1.1\r\nHost: test\r\n\r\n", id="target-not-ascii"),
    ],
)
def test_malformed_framing_is_refused_with_400(server: Served, data: bytes) -> None:
    answer = ask_and_see_the_end(server, data)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_http")


@pytest.mark.parametrize("name", [b"Authorization", b"x-api-key", b"Host", b"Content-Type"])
def test_a_header_that_must_be_single_is_refused_when_doubled(server: Served, name: bytes) -> None:
    lines = [b"GET /echo HTTP/1.1", name + b": one", name.lower() + b": two"]
    answer = ask_and_see_the_end(server, b"\r\n".join(lines) + b"\r\n\r\n")
    assert (answer.status, answer.error_code) == (400, "duplicate_header")


def test_authorization_beside_an_api_key_is_for_the_app_to_judge(server: Served) -> None:
    answer = ask(server.port, get("/echo", b"Authorization: Bearer a", b"x-api-key: b"))
    assert answer.status == 200
    assert answer.json["headers"] == ["host", "authorization", "x-api-key"]


def test_a_trailer_never_becomes_a_header(server: Served) -> None:
    data = request(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nAuthorization: Bearer smuggled\r\n\r\n")
    with RawClient(server.port) as client:
        client.send(data)
        answer = client.read_answer()
        assert answer.status == 200
        assert "authorization" not in answer.json["headers"]
        client.send(get("/echo", b"Authorization: Bearer honest"))
        assert client.read_answer().json["headers"] == ["host", "authorization"]


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * MIB])
def test_an_offered_upgrade_is_ignored_and_the_body_read(server: Served, body: bytes) -> None:
    answer = ask_and_see_the_end(server, post("/echo", body, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"))
    assert (answer.status, answer.json["body_bytes"]) == (200, len(body))


def test_an_offered_upgrade_is_ignored_and_a_body_that_comes_later_read(server: Served) -> None:
    head = request(b"Content-Length: 5", b"Connection: Upgrade", b"Upgrade: h2c")
    with RawClient(server.port) as client:
        client.send(head)
        client.send(b"he")
        time.sleep(0.05)
        client.send(b"llo", post("/echo", b"dropped"))
        assert client.read_answer().json["body_bytes"] == 5
        assert client.read_to_close() == b""


# Size


def test_one_header_of_a_mebibyte_is_refused_with_431(server: Served) -> None:
    answer = ask_and_see_the_end(server, get("/echo", b"X-Large: " + b"x" * MIB))
    assert (answer.status, answer.error_code) == (431, "headers_too_large")


def test_twenty_thousand_headers_are_refused_with_431(server: Served) -> None:
    answer = ask_and_see_the_end(server, get("/echo", *(b"X-%d: x" % number for number in range(20_000))))
    assert (answer.status, answer.error_code) == (431, "headers_too_large")


def test_headers_just_under_the_bound_are_served_beside_a_large_body(server: Served) -> None:
    data = post("/echo", b"x" * MIB, b"X-Large: " + b"x" * 65_000)
    answer = ask(server.port, data)
    assert (answer.status, answer.json["body_bytes"]) == (200, MIB)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"GET /echo HTTP/1.1\r\nX-Large: ", id="header"),
        pytest.param(b"GET /", id="target"),
        pytest.param(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Large: ", id="trailer"),
        pytest.param(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=", id="chunk-extension"),
    ],
)
def test_64_mib_that_never_end_are_cut_and_take_no_memory(server: Served, start: bytes) -> None:
    ask(server.port, get("/echo"))
    rss_before = server.rss_bytes
    rss_most = 0
    with RawClient(server.port) as client, contextlib.suppress(ConnectionError):
        client.send(start)
        for _ in range(64):
            client.send(b"x" * MIB)
            rss_most = max(rss_most, server.rss_bytes)
        client.read_to_close()
    assert max(rss_most, server.rss_bytes) - rss_before < RSS_GROWTH_MAX
    assert ask(server.port, get("/echo")).status == 200


def test_a_content_length_above_the_bound_is_refused_before_the_body(server: Served) -> None:
    answer = ask_and_see_the_end(server, request(b"Content-Length: 3000000"))
    assert (answer.status, answer.error_code) == (413, "body_too_large")


def test_a_chunked_body_above_the_bound_is_refused_on_its_way(server: Served) -> None:
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    answer = ask_and_see_the_end(server, request(b"Transfer-Encoding: chunked", body=chunk * 9))
    assert (answer.status, answer.error_code) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "body_bytes", "status"),
    [pytest.param("/refuse", 2 * MIB, 401, id="by-the-app"), pytest.param("/echo", 8 * MIB, 413, id="by-the-server")],
)
def test_a_client_that_sends_its_whole_body_before_it_reads_gets_the_refusal(
    server: Served, path: str, body_bytes: int, status: int
) -> None:
    with RawClient(server.port) as client:
        client.send(request(b"Content-Length: %d" % body_bytes).replace(b"/echo", path.encode()))
        client.socket.recv(1, socket.MSG_PEEK)
        for _ in range(body_bytes // 65_536):
            client.send(b"x" * 65_536)
        answer = client.read_answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert client.read_to_close() == b""


# Time


def seconds_until_408(server: Served, *pieces: bytes, pause_s: float = 0.0) -> float:
    started = time.monotonic()
    with RawClient(server.port) as client:
        for piece in pieces:
            client.send(piece)
            time.sleep(pause_s)
        answer = client.read_answer()
        elapsed = time.monotonic() - started
        assert (answer.status, answer.error_code) == (408, "request_timeout")
        assert client.read_to_close() == b""
    return elapsed


def test_a_silent_connection_is_answered_408_and_closed(server: Served) -> None:
    assert HEAD_TIMEOUT_S - 0.05 < seconds_until_408(server) < HEAD_TIMEOUT_S + 0.5


def test_half_a_header_is_answered_408_and_closed(server: Served) -> None:
    elapsed = seconds_until_408(server, b"POST /echo HTTP/1.1\r\nHost: te")
    assert HEAD_TIMEOUT_S - 0.05 < elapsed < HEAD_TIMEOUT_S + 0.5


def test_a_header_that_trickles_is_answered_408_all_the_same(server: Served) -> None:
    pieces = [b"POST /echo HTTP/1.1\r\n", *[b"X-Name: value\r\n"] * 3]
    assert seconds_until_408(server, *pieces, pause_s=0.1) < HEAD_TIMEOUT_S + 0.5


def test_half_a_second_header_is_answered_408(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(get("/echo"))
        assert client.read_answer().status == 200
        client.send(b"POST /echo HTTP/1.1\r\nHost: te")
        started = time.monotonic()
        assert client.read_answer().status == 408
        assert time.monotonic() - started > HEAD_TIMEOUT_S - 0.05


def test_half_a_body_is_answered_408_and_closed(server: Served) -> None:
    elapsed = seconds_until_408(server, request(b"Content-Length: 10", body=b"hello"))
    assert BODY_TIMEOUT_S - 0.05 < elapsed < BODY_TIMEOUT_S + 0.5


def test_a_body_that_trickles_is_answered_408_all_the_same(server: Served) -> None:
    pieces = [request(b"Content-Length: 100"), *[b"x"] * 5]
    assert seconds_until_408(server, *pieces, pause_s=0.1) < BODY_TIMEOUT_S + 0.5


def test_a_large_body_may_take_longer_as_long_as_it_moves(server: Served) -> None:
    piece = b"x" * (MIB // 2)
    with RawClient(server.port) as client:
        client.send(request(b"Content-Length: %d" % (4 * len(piece))))
        started = time.monotonic()
        for _ in range(4):
            client.send(piece)
            time.sleep(BODY_TIMEOUT_S / 3 + 0.02)
        assert client.read_answer().json["body_bytes"] == 4 * len(piece)
        assert time.monotonic() - started > BODY_TIMEOUT_S


def test_a_kept_connection_serves_again_and_is_closed_without_a_word_when_idle(server: Served) -> None:
    with RawClient(server.port) as client:
        for _ in range(3):
            client.send(post("/echo", b"hello"))
            assert client.read_answer().status == 200
        assert client.read_to_close() == b""


# An app that fails


@pytest.mark.parametrize("path", ["/crash", "/silence"])
def test_a_call_that_the_app_fails_to_answer_is_a_500_in_json(server: Served, path: str) -> None:
    answer = ask_and_see_the_end(server, post(path, b"hello"))
    assert (answer.status, answer.error_code) == (500, "internal_error")
    assert "defect" not in answer.body.decode()


def test_answers_carry_no_server_and_no_date_header(server: Served) -> None:
    answer = ask(server.port, get("/echo"))
    assert set(answer.headers) == {"content-type", "content-length"}


def test_expect_100_continue_is_answered_before_the_body(server: Served) -> None:
    with RawClient(server.port) as client:
        client.send(request(b"Content-Length: 5", b"Expect: 100-continue"))
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"hello")
        assert json.loads(client.read_answer().body)["body_bytes"] == 5
