"""The upstream client of our own: HTTP/1.1 over kept connections, parsed by llhttp.

Failure policy: closed. An attempt is `NeverSent` only on proof: no connection came about, the request cannot be sent
as it is, or the connection broke while part of the request was still in our own buffer. Any other failure leaves the
call's fate unknown. Nothing here writes a request twice: not even on a kept connection that turns out to be closed.

The parts: `http_request` is what goes out, `answer_parser` and `http_response` what comes back, `connection` carries
both, `dialing` opens connections and `pool` keeps them. There are no proxies, redirects,
cookies or compression.
"""

import asyncio
import ssl
from types import TracebackType

from spendfuse.upstream.client import UpstreamRequest
from spendfuse.upstream.http_request import head_of, target_of
from spendfuse.upstream.http_response import HttpResponse
from spendfuse.upstream.pool import Pool


class HttpClient:
    """Keeps one pool of connections, in the event loop in which it is made.

    `ssl_context` replaces the system's trust store; certificates and host names are always verified by default.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._pool = Pool(ssl_context)

    def post(self, request: UpstreamRequest) -> "_Exchange":
        """See `UpstreamClient`."""
        return _Exchange(self._pool, request)

    async def close(self) -> None:
        """See `UpstreamClient`."""
        await self._pool.close()


class _Exchange:
    """One request and, while its context is entered, the answer."""

    __slots__ = ("_pool", "_request", "_response")

    def __init__(self, pool: Pool, request: UpstreamRequest) -> None:
        self._pool = pool
        self._request = request
        self._response: HttpResponse | None = None

    async def __aenter__(self) -> HttpResponse:
        request = self._request
        total_at_s = self._pool.loop.time() + request.total_timeout_s
        target = target_of(request.url)
        head = head_of(target, request)
        connection = self._pool.take(target.origin)
        if connection is None:
            timeout_s = min(request.connect_timeout_s, request.total_timeout_s)
            connection = await self._pool.open(target.origin, timeout_s)
        self._response = response = HttpResponse(connection, self._pool.loop)
        connection.send(request, head, response=response, total_at_s=total_at_s)
        try:
            await response.head()
        except asyncio.CancelledError:
            response.abandon()
            raise
        return response

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A body that has come to its end has given its connection back already; any other connection dies here.
        if self._response is not None:
            self._response.abandon()
