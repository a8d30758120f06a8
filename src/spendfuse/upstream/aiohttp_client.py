"""The upstream client over aiohttp.

Failure policy: closed. An attempt is `NeverSent` only on proof: no connection came about, or the connection broke while
part of the request was still in our own buffer. Any other failure leaves the call's fate unknown. aiohttp repeats only
idempotent requests, so never a POST, also not on a kept connection that turns out to be closed.

Whoever imports this module pays for importing aiohttp; it is meant to be imported where a gateway is put together.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache, partial
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_writer import StreamWriter
from aiohttp.payload import Payload
from aiohttp.tracing import Trace
from yarl import URL

from spendfuse import __version__
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamError, UpstreamRequest, UpstreamTimeout

KEEPALIVE_S = 15.0
"""Idle connections are closed before most servers close theirs, so that a POST rarely meets a closed one."""
_READ_BUFFER_BYTES = 65_536
_HEADER_BYTES_MAX = 16_384
_HEADERS_MAX = 200
_DEFAULT_HEADERS = {
    "Accept-Encoding": "identity",  # Usage is read out of the bytes as they pass.
    "Content-Type": "application/json",
    "User-Agent": f"spendfuse/{__version__}",
}


class AiohttpClient:
    """Keeps one pool of connections, opened at the first call, in the event loop of that call.

    `ssl_context` replaces the system's trust store; certificates and host names are always verified by default.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    def post(self, request: UpstreamRequest) -> "_Exchange":
        """See `UpstreamClient`."""
        return _Exchange(self, request)

    async def close(self) -> None:
        """See `UpstreamClient`."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    def session(self) -> aiohttp.ClientSession:
        """The session behind this client.

        Raises:
            NeverSent: the client has been closed.
        """
        if self._is_closed:
            raise NeverSent("the upstream client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(self._ssl_context),
                headers=_DEFAULT_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_READ_BUFFER_BYTES,
                max_line_size=_HEADER_BYTES_MAX,
                max_field_size=_HEADER_BYTES_MAX,
                max_headers=_HEADERS_MAX,
            )
        return self._session


class _Exchange:
    """One request and, while its context is entered, the answer."""

    __slots__ = ("_answer", "_client", "_request")

    def __init__(self, client: AiohttpClient, request: UpstreamRequest) -> None:
        self._client = client
        self._request = request
        self._answer: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> "_Response":
        request = self._request
        timeout = _timeout_of(request.connect_timeout_s, request.first_byte_timeout_s, request.total_timeout_s)
        try:
            answer = await self._client.session().request(
                "POST",
                _parsed(request.url),
                data=_Body(request.body),
                headers=request.headers,
                timeout=timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _failure_before_head(exc) from exc
        self._answer = answer
        connection = answer.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = request.read_timeout_s
            connection.protocol.start_timeout()
        return _Response(answer)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A body that has come to its end has given its connection back already; any other connection dies here.
        if self._answer is not None and not self._answer.closed:
            self._answer.close()


class _Response:
    """An answer whose head has arrived; also the iterator over its chunks."""

    __slots__ = ("_answer", "headers", "status")

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers

    def chunks(self) -> AsyncIterator[bytes]:
        """See `UpstreamResponse`."""
        return self

    def __aiter__(self) -> "_Response":
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._answer.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            raise _failure_after_send(exc, "before the end of its answer") from exc
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self, bytes_max: int) -> bytes:
        """See `UpstreamResponse`."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > bytes_max:
                self._answer.close()
                raise FateUnknown(f"the upstream's answer is larger than {bytes_max} bytes")
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _UploadCut(aiohttp.ClientConnectionError):
    """The connection broke before all of the request had left our buffer."""

    def __init__(self) -> None:
        super().__init__("the connection broke during the upload")


_PROOFS_OF_NOTHING_SENT = (
    _UploadCut,
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)


def _failure_before_head(exc: Exception) -> UpstreamError:
    if isinstance(exc, _PROOFS_OF_NOTHING_SENT):
        return NeverSent(f"the request was not sent: {exc}")
    return _failure_after_send(exc, "before it answered")


def _failure_after_send(exc: Exception, when: str) -> FateUnknown:
    if isinstance(exc, TimeoutError):
        return UpstreamTimeout(f"the upstream fell silent {when}")
    return FateUnknown(f"the connection to the upstream failed {when}: {type(exc).__name__}")


@lru_cache(maxsize=256)
def _timeout_of(connect_s: float, first_byte_s: float, total_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total_s, connect=connect_s, sock_read=first_byte_s)


@lru_cache(maxsize=256)
def _parsed(url: str) -> URL:
    return URL(url)


class _Body(Payload):
    """A request body, written at once: aiohttp's own payload of bytes warns of every body above 1 MiB."""

    _value: bytes
    _autoclose = True

    def __init__(self, body: bytes) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """See `Payload`."""
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """See `Payload`.

        Raises:
            _UploadCut: the connection, a kept one, has been closed meanwhile.
        """
        if isinstance(writer, StreamWriter) and isinstance(writer.protocol, _Protocol):
            writer.protocol.assert_connected()
        await writer.write(self._value)


class _Protocol(ResponseHandler):
    """aiohttp's connection, made stricter on three points, each with a test in test_upstream_client."""

    is_idle = False
    """In the pool: whatever is received now answers no request of ours."""

    def assert_connected(self) -> None:
        """Called before the first byte of a request.

        Raises:
            _UploadCut: there is nothing to write to any more, so nothing was sent.
        """
        if not self.is_connected():
            cut = _UploadCut()
            self.set_exception(cut)  # The task that waits for the answer is another one.
            raise cut

    def close(self) -> None:
        """Close without flushing: a request that was given up is not sent to its end, nor is TLS shut down politely,
        either of which would let the provider go on generating."""
        self.abort()

    def data_received(self, data: bytes) -> None:
        """Drop a connection on which bytes come unasked, lest they be read as the answer to the next call."""
        if self.is_idle and data:
            self.abort()
            return
        super().data_received(data)
        if self.is_idle and self.should_close:  # More than one answer came in one piece.
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Say so where part of the request had not left: writing is paused only while our buffer is not empty."""
        if not self.writing_paused:
            super().connection_lost(exc)
            return
        self.set_exception(_UploadCut())
        super().connection_lost(exc or ConnectionResetError())


class _Connector(aiohttp.TCPConnector):
    """aiohttp's pool over `_Protocol`, without a bound on connections: DESIGN's limits bound the calls."""

    def __init__(self, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            ssl=True if ssl_context is None else ssl_context,
            limit=0,
            keepalive_timeout=KEEPALIVE_S,
        )
        self._factory = partial(_Protocol, loop=self._loop)

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        connection = await super()._get(key, traces)
        if connection is not None and isinstance(connection.protocol, _Protocol):
            connection.protocol.is_idle = False
        return connection

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if isinstance(protocol, _Protocol):
            protocol.is_idle = True
