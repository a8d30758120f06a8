"""One process that serves: it opens the app, accepts connections, drains when told to stop, closes the app.

Failure policy: an app that cannot be opened is a `StartFailed` with its reason, before any connection is accepted.
"""

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, cast

import uvloop
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.server import ServerState

from spendfuse.core.errors import SpendfuseError
from spendfuse.server.protocol import HardenedProtocol, ServerLimits

logger = logging.getLogger("spendfuse.server")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]


class ServedApp(Protocol):
    """An ASGI app whose config can be changed while it serves."""

    def __call__(self, scope: Message, receive: Receive, send: Send, /) -> Awaitable[None]: ...

    async def reload(self, document: str, /) -> None:
        """Serve the config of this document from now on. Calls in flight keep what they began with.

        Swaps the whole config or, when it raises or is cancelled, nothing. Never called twice at a time.

        Raises:
            SpendfuseError: it can't be served; the message says why.
        """
        ...


AppFactory = Callable[[str], AbstractAsyncContextManager[ServedApp]]
"""Opens the app with the config of a document, inside the event loop of the process that serves it, and closes it after
the drain."""
Beside = Callable[[ServedApp], Coroutine[Any, Any, None]]
"""What runs beside an app for as long as that is open, and is then cancelled."""

_ACCEPT_QUEUE = 2048
_DRAIN_CHECK_S = 0.02
_GC_ALLOCATIONS = 20_000


class StartFailed(SpendfuseError):
    """The server never came to accept calls; the message says why."""


class StopSwitch:
    """How a running server is told to end: `stop` drains and may repeat, `cut` ends the drain at once."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.is_cut = False
        self._opening: asyncio.Timeout | None = None

    def stop(self) -> None:
        if self._opening is not None and not self.stopped.is_set():
            self._opening.reschedule(asyncio.get_running_loop().time())
        self.stopped.set()

    def cut(self) -> None:
        self.is_cut = True
        self.stop()

    def press(self) -> None:
        """What a signal does: the first stops, the second cuts."""
        if self.stopped.is_set():
            self.cut()
        else:
            self.stop()

    async def open(self, context: AbstractAsyncContextManager[ServedApp]) -> ServedApp:
        """Enter the context; a stop in the meantime cancels that and raises TimeoutError."""
        if self.stopped.is_set():
            raise TimeoutError
        try:
            async with asyncio.timeout(None) as self._opening:
                return await context.__aenter__()
        finally:
            self._opening = None


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind every address of the host to one port (0: any free one), not yet accepting.

    Raises:
        StartFailed: the host is unknown, or none of its addresses, or not this port, can be had.
    """
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            shared_port = sockets[0].getsockname()[1] if sockets else port
            with contextlib.suppress(_AddressAbsent):
                sockets.append(_bind(family, (address[0], shared_port, *address[2:])))
    except OSError as exc:
        _close(sockets)
        raise StartFailed(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    if not sockets:
        raise StartFailed(f"cannot listen on {host}:{port}: this machine has no such address")
    return sockets


class _AddressAbsent(Exception):
    """The name resolves to an address that this machine does not have, such as ::1 without IPv6."""


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise _AddressAbsent from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: a client that vanished without a word is noticed in the end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.bind(address)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRNOTAVAIL:
            raise _AddressAbsent from exc
        raise
    sock.setblocking(False)
    return sock


def run_loop(serving: Coroutine[Any, Any, None]) -> None:
    """Run this to its end in an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)


async def run_app(
    factory: AppFactory,
    sockets: list[socket.socket],
    *,
    document: str,
    limits: ServerLimits,
    switch: StopSwitch,
    on_accepting: Callable[[], None],
    beside: Beside,
) -> None:
    """Open the app, serve it on the sockets until the switch stops it, drain, close it. Closes the sockets.

    Raises:
        StartFailed: the factory failed.
    """
    try:
        context = factory(document)
        app = await switch.open(context)
    except Exception as exc:
        if switch.stopped.is_set():
            return
        raise _start_failed(exc) from exc
    finally:
        if switch.stopped.is_set():
            _close(sockets)
    try:
        async with _running(beside(app)):
            await _accept(app, sockets, limits=limits, switch=switch, on_accepting=on_accepting)
    finally:
        await _close_app(context, limits.close_s)


@asynccontextmanager
async def _running(background: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    task = asyncio.create_task(background)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background_failed", exc_info=error)


def _start_failed(error: Exception) -> StartFailed:
    if isinstance(error, SpendfuseError):
        return StartFailed(str(error))
    logger.error("app_open_failed", exc_info=error)
    return StartFailed(f"{type(error).__name__}: {error}")


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


async def _accept(
    app: ServedApp,
    sockets: list[socket.socket],
    *,
    limits: ServerLimits,
    switch: StopSwitch,
    on_accepting: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    state = ServerState()
    connect = functools.partial(HardenedProtocol, _protocol_config(app), state, limits=limits, loop=loop)
    _tune_gc()
    servers = [await loop.create_server(connect, sock=sock, backlog=_ACCEPT_QUEUE) for sock in sockets]
    on_accepting()
    await switch.stopped.wait()
    for server in servers:
        server.close()
    _close(sockets)
    await _drain(state, limits, switch)


def _tune_gc() -> None:
    """Look for cycles less often, and not among what lives as long as the process: a tenth of the CPU of a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 50)


def _protocol_config(app: ServedApp) -> Config:
    return Config(
        cast("ASGI3Application", app),
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )


async def _drain(state: ServerState, limits: ServerLimits, switch: StopSwitch) -> None:
    """Let calls in flight end; past the deadline cancel them, and cut what is still connected."""
    connections = cast("set[HardenedProtocol]", state.connections)
    for connection in list(connections):
        connection.shutdown()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.drain_s
    # Uvicorn's sets tell nobody when they change, and a drain is short.
    while (connections or state.tasks) and not switch.is_cut and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_DRAIN_CHECK_S)
    if state.tasks:
        logger.warning("calls_cut count=%d drain_s=%s", len(state.tasks), limits.drain_s)
        for task in state.tasks:
            task.cancel()
        await asyncio.wait(set(state.tasks), timeout=limits.close_s)
    for connection in list(connections):
        connection.transport.abort()


async def _close_app(context: AbstractAsyncContextManager[ServedApp], close_s: float) -> None:
    try:
        async with asyncio.timeout(close_s):
            await context.__aexit__(None, None, None)
    except TimeoutError:
        logger.error("app_close_timed_out close_s=%s", close_s)
