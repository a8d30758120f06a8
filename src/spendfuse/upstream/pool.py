"""The connections of one client, idle and busy, by origin.

Failure policy: closed. Whatever keeps a connection from coming about is `NeverSent`.
"""

import asyncio
import ssl
from collections import deque

from spendfuse.upstream.client import NeverSent
from spendfuse.upstream.connection import Connection
from spendfuse.upstream.dialing import dial
from spendfuse.upstream.http_request import Origin

KEEPALIVE_S = 15.0
"""Idle connections are closed before most servers close theirs, so that a POST rarely meets a closed one."""


class Pool:
    """Hands out the connection that was used last, so that those beyond the need expire.

    There is no bound on connections: DESIGN's limits bound the calls.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None) -> None:
        # Asked for once: `get_running_loop` is a system call before Python 3.12.
        self.loop = asyncio.get_running_loop()
        self._ssl_context = ssl_context
        self._idle: dict[Origin, deque[Connection]] = {}
        """By origin, the longest idle first."""
        self._all: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._emptied = asyncio.Event()

    def take(self, origin: Origin) -> Connection | None:
        """A kept connection that nobody has closed yet.

        Raises:
            NeverSent: the client has been closed.
        """
        if self._is_closed:
            raise NeverSent("the upstream client is closed")
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            connection.abort()
        return None

    async def open(self, origin: Origin, timeout_s: float) -> Connection:
        """A new connection.

        Raises:
            NeverSent: none came about in time.
        """
        connection = Connection(origin, self)
        context = self._context() if origin.is_tls else None
        try:
            async with asyncio.timeout(timeout_s):
                await dial(origin, connection, context)
        except TimeoutError as exc:
            raise NeverSent("the request was not sent: no connection to the upstream came about in time") from exc
        except (OSError, ValueError) as exc:
            raise NeverSent(f"the request was not sent: {exc}") from exc
        if self._is_closed or not connection.is_usable:
            connection.abort()
            raise NeverSent("the request was not sent: the connection was closed at once")
        self._all.add(connection)
        return connection

    def keep(self, connection: Connection) -> None:
        """See `Home`."""
        connection.idle_since_s = self.loop.time()
        self._idle.setdefault(connection.origin, deque()).append(connection)
        if self._timer is None:
            self._expire_at(connection.idle_since_s + KEEPALIVE_S)

    def forget(self, connection: Connection) -> None:
        """See `Home`."""
        self._all.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)
        if self._is_closed and not self._all:
            self._emptied.set()

    async def close(self) -> None:
        """Close all connections, and those that are coming about as soon as they have. May be repeated."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._all):
            connection.cut("the client was closed")
        if self._all:
            await self._emptied.wait()

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def _expire_at(self, at_s: float) -> None:
        self._timer = self.loop.call_at(at_s, self._expire)

    def _expire(self) -> None:
        """Close what has been idle for too long. One timer serves all: it is set for the one that expires next."""
        self._timer = None
        expired_before_s = self.loop.time() - KEEPALIVE_S
        next_s: list[float] = []
        for origin, idle in list(self._idle.items()):
            while idle and idle[0].idle_since_s <= expired_before_s:
                idle.popleft().abort()
            if idle:
                next_s.append(idle[0].idle_since_s)
            else:
                del self._idle[origin]
        if next_s:
            self._expire_at(min(next_s) + KEEPALIVE_S)
