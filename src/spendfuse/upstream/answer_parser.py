"""Reads the answers on one connection, one after the other, with llhttp.

Failure policy: closed. What is not HTTP, too large, or not asked for is `AnswerBroken`, and the connection with it.
"""

from httptools import HttpParserError, HttpResponseParser

from spendfuse.upstream.http_response import HttpResponse, ResponseHeaders

HEADER_LINE_BYTES_MAX = 16_384
HEADERS_MAX = 200
HEAD_BYTES_MAX = 65_536
"""Also bounds whatever else comes without a byte of body: interim answers, chunk extensions, trailers."""
_SWITCHING_PROTOCOLS = 101


class AnswerBroken(Exception):
    """What came cannot be taken as an answer; the message says why, without a byte of it."""


class AnswerParser:
    """Feeds one `HttpResponse` at a time. The `on_` methods are httptools' callbacks."""

    __slots__ = (
        "_bytes_without_body",
        "_ends_with_connection",
        "_fields",
        "_fields_bytes",
        "_has_surplus",
        "_is_complete",
        "_is_kept",
        "_parser",
        "_response",
    )

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)

    def expect(self, response: HttpResponse) -> None:
        """What comes from now on is this answer."""
        self._response = response
        self._fields: list[tuple[str, str]] = []
        self._fields_bytes = 0
        self._bytes_without_body = 0
        self._ends_with_connection = False
        self._has_surplus = False
        self._is_complete = False
        self._is_kept = False

    @property
    def can_reuse(self) -> bool:
        """The answer is complete, its server keeps the connection, and nothing came behind it."""
        return self._is_kept and not self._has_surplus

    def feed(self, data: bytes) -> bool:
        """Take what was received; True once the answer is complete.

        Raises:
            AnswerBroken: the parser is of no more use.
        """
        self._bytes_without_body += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as exc:
            # An exception of a callback is the context of httptools' own.
            raise AnswerBroken(str(exc.__context__ or exc)) from exc
        if self._bytes_without_body > HEAD_BYTES_MAX:
            raise AnswerBroken("too many bytes outside of its body")
        return self._is_complete

    def feed_eof(self) -> bool:
        """The server has closed; True if that is how this answer ends."""
        return self._ends_with_connection

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._has_surplus = True
        else:
            self._fields = []  # Those so far were an interim answer's.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response.has_begun:
            return  # A trailer.
        size = len(name) + len(value)
        self._fields_bytes += size
        if size > HEADER_LINE_BYTES_MAX or self._fields_bytes > HEAD_BYTES_MAX or len(self._fields) >= HEADERS_MAX:
            raise AnswerBroken("its headers are too large")
        # Bytes that are no UTF-8 survive the way to the client.
        self._fields.append((name.decode("ascii"), value.rstrip(b" \t").decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        if self._response.has_begun:
            return
        status = self._parser.get_status_code()
        if status == _SWITCHING_PROTOCOLS:
            raise AnswerBroken("it switches protocols unasked")
        if status < 200:
            return
        headers = ResponseHeaders(self._fields)
        self._ends_with_connection = not self._parser.should_keep_alive() and not _is_framed(headers)
        self._response.begin(status, headers)

    def on_body(self, data: bytes) -> None:
        if not self._is_complete:
            self._bytes_without_body = 0
            self._response.add(data)

    def on_message_complete(self) -> None:
        if self._response.has_begun and not self._is_complete:
            self._is_complete = True
            # Only here: once this callback has returned, llhttp forgets it and says no.
            self._is_kept = self._parser.should_keep_alive()


def _is_framed(headers: ResponseHeaders) -> bool:
    """Its end can be told without the end of the connection."""
    return "content-length" in headers or headers.get("transfer-encoding", "").lower().endswith("chunked")
