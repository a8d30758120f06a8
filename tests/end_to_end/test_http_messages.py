"""What the upstream client of our own writes and reads, without a network."""

import asyncio

import pytest
from upstream_rig import CHUNKED_HEAD, answer, chunk

from spendfuse.upstream.answer_parser import AnswerBroken, AnswerParser
from spendfuse.upstream.client import NeverSent, UpstreamRequest
from spendfuse.upstream.http_request import Origin, Target, head_of, target_of
from spendfuse.upstream.http_response import HttpResponse

INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
WHOLE = (
    b"HTTP/1.1 100 Continue\r\n\r\n" + INTERIM + b"HTTP/1.1 200 OK\r\nX-A: one\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4;ext=1\r\ndata\r\n" + chunk(b"\r\n" * 40) + b"0\r\nX-Trailer: t\r\n\r\n"
)  # fmt: skip


class Nowhere:
    """The source of an answer that comes from no connection."""

    def resume(self) -> None:
        pass

    def abort(self) -> None:
        pass


UNUSED_LOOP = asyncio.new_event_loop()
UNUSED_LOOP.close()


class Reading:
    """A parser and the answer it reads."""

    def __init__(self) -> None:
        self.parser = AnswerParser()
        self.expect()

    def expect(self) -> None:
        self.response = HttpResponse(Nowhere(), UNUSED_LOOP)
        self.parser.expect(self.response)

    def seen(self) -> tuple[int, list[tuple[str, str]], bytes]:
        return self.response.status, list(self.response.headers.items()), b"".join(self.response._pieces)


def read(*pieces: bytes) -> Reading:
    """Feed pieces, of which the last must complete the answer, and no other."""
    reading = Reading()
    ends = [reading.parser.feed(piece) for piece in pieces]
    assert ends == [False] * (len(pieces) - 1) + [True]
    return reading


WANTED = (200, [("X-A", "one"), ("Transfer-Encoding", "chunked")], b"data" + b"\r\n" * 40)


def test_an_answer_may_be_cut_anywhere() -> None:
    for at in range(1, len(WHOLE)):
        reading = read(WHOLE[:at], WHOLE[at:])
        assert reading.seen() == WANTED, at
        assert reading.parser.can_reuse, at


def test_an_answer_may_come_byte_by_byte() -> None:
    reading = read(*(WHOLE[at : at + 1] for at in range(len(WHOLE))))
    assert reading.seen() == WANTED
    assert reading.parser.can_reuse


def test_answers_do_not_leak_into_each_other() -> None:
    reading = Reading()
    for _ in range(3):
        reading.expect()
        assert reading.parser.feed(WHOLE)
        assert reading.seen() == WANTED


def test_an_answer_behind_another_changes_nothing_but_reuse() -> None:
    behind = answer(b"poison", "X-A: other")
    for size in range(1, len(behind) + 1):
        reading = read(WHOLE + behind[:size])
        assert reading.seen() == WANTED, size
        assert not reading.parser.can_reuse, size


def test_a_long_answer_in_small_chunks_is_no_overhead() -> None:
    reading = Reading()
    assert not reading.parser.feed(CHUNKED_HEAD)
    for _ in range(10_000):
        assert not reading.parser.feed(chunk(b"0123456789"))
    assert reading.parser.feed(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 201),
        (b"", b"HTTP/1.1 200 OK\r\nA: " + b"b" * 16_384 + b"\r\nB: c\r\n"),
        (b"", b"HTTP/1.1 200 OK\r\n" + (b"A: " + b"b" * 10_000 + b"\r\n") * 7 + b"B: c\r\n"),
        (b"HTTP/1.1 200 OK\r\nA: ", b"b" * 1_000),
        (b"HTTP/1.1 200 ", b"O" * 1_000),
        (b"", INTERIM),
        (CHUNKED_HEAD + b"4;", b"x" * 1_000),
        (CHUNKED_HEAD + b"0\r\n", b"A: b\r\n"),
        (CHUNKED_HEAD + b"0\r\nA: ", b"b" * 1_000),
    ],
    ids=["many", "long", "large", "endless", "reason", "interim", "extension", "trailers", "trailer"],
)
def test_what_is_no_body_is_bounded(begin: bytes, more: bytes) -> None:
    reading = Reading()
    reading.parser.feed(begin)
    with pytest.raises(AnswerBroken):
        for _ in range(65_536 // len(more) + 2):
            reading.parser.feed(more)


def post(headers: dict[str, str]) -> UpstreamRequest:
    return UpstreamRequest("http://h.test/v1?a=b", headers, b"{}")


def test_a_head_has_the_defaults_and_the_framing() -> None:
    request = post({"Authorization": "Bearer k", "content-type": "text/plain", "X-U": "é"})
    lines = head_of(target_of(request.url), request).decode().split("\r\n")
    assert lines[:2] == ["POST /v1?a=b HTTP/1.1", "Host: h.test"]
    assert lines[-3:] == ["Content-Length: 2", "", ""]
    sent = {line.split(": ")[0]: line.split(": ")[1] for line in lines[1:-2]}
    assert sent["Accept-Encoding"] == "identity"
    assert sent["User-Agent"].startswith("spendfuse/")
    assert sent["content-type"] == "text/plain"
    assert sent["X-U"] == "é"
    assert "Content-Type" not in sent


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "b\r\nX-C: d"},
        {"X-A": "b\nX-C: d"},
        {"X-A": "b\rX-C: d"},
        {"X-A": "b\0"},
        {"X-A\r\nX-C": "d"},
        {"X-A: b": "c"},
        {"X A": "b"},
        {"": "b"},
        {"X-É": "b"},
        {"X-A": "half \ud800"},
        {"Content-Length": "9"},
        {"transfer-encoding": "chunked"},
        {"HOST": "other.test"},
        {"Connection": "close"},
        {"Authorization": "a", "authorization": "b"},
    ],
)
def test_a_header_that_could_forge_something_is_never_sent(headers: dict[str, str]) -> None:
    with pytest.raises(NeverSent) as caught:
        head_of(target_of("http://h.test/"), post(headers))
    assert "d" not in headers.values() or "X-C: d" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin", "path", "host"),
    [
        ("http://h.test", Origin(False, "h.test", 80), "/", "h.test"),
        ("https://H.test/v1", Origin(True, "h.test", 443), "/v1", "h.test"),
        ("https://h.test:443/v1", Origin(True, "h.test", 443), "/v1", "h.test"),
        ("http://h.test:8080/v1", Origin(False, "h.test", 8080), "/v1", "h.test:8080"),
        ("http://[::1]:8080/", Origin(False, "::1", 8080), "/", "[::1]:8080"),
        ("http://bücher.test/", Origin(False, "xn--bcher-kva.test", 80), "/", "xn--bcher-kva.test"),
        ("http://h.test/a b/%20é?q=a b#c", Origin(False, "h.test", 80), "/a%20b/%20%C3%A9?q=a%20b", "h.test"),
    ],
)
def test_a_url_is_taken_apart(url: str, origin: Origin, path: str, host: str) -> None:
    assert target_of(url) == Target(origin, f"POST {path} HTTP/1.1\r\nHost: {host}\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "", "/v1", "h.test/v1", "ftp://h.test/", "http://", "http:///v1", "http://h.test:0/", "http://h.test:99999/",
        "http://h.test:x/", "http://me:secret@h.test/", "http://me@h.test/", "http://h test/", "http://[::1/",
        "http://h.test\x00/",
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_never_sent(url: str) -> None:
    with pytest.raises(NeverSent) as caught:
        target_of(url)
    assert "secret" not in str(caught.value)
