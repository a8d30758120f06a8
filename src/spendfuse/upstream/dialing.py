"""How a connection comes about: resolve, connect to the first address that answers, shake hands.

The addresses are tried here because not every event loop races them (RFC 8305), and one dead IPv6 route would otherwise
use up the whole time to connect.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import NamedTuple

from spendfuse.upstream.http_request import Origin

_NEXT_ADDRESS_AFTER_S = 0.25


class _Address(NamedTuple):
    family: int
    address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


async def dial(origin: Origin, protocol: asyncio.Protocol, context: ssl.SSLContext | None) -> None:
    """Connect a protocol to an origin, over TLS where there is a context.

    Raises:
        OSError, ValueError: no address, none that answers, or no trust; nothing is left open.
    """
    sock = await _connected(await _resolved(origin))
    await asyncio.get_running_loop().create_connection(
        lambda: protocol, sock=sock, ssl=context, server_hostname=None if context is None else origin.host
    )


async def _resolved(origin: Origin) -> list[_Address]:
    """The addresses of an origin, families in turn, the preferred one first."""
    found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    addresses = [_Address(family, address) for family, _, _, _, address in found]
    if not addresses:
        raise OSError("the host has no address")
    first = [one for one in addresses if one.family == addresses[0].family]
    others = [one for one in addresses if one.family != addresses[0].family]
    return [one for one in chain.from_iterable(zip_longest(first, others)) if one is not None]


async def _connected(addresses: list[_Address]) -> socket.socket:
    """A socket to the first address that answers; each has a short lead over the next."""
    if len(addresses) == 1:
        return await _connected_to(addresses[0])
    waiting = deque(addresses)
    tasks: list[asyncio.Task[socket.socket]] = []
    winner: asyncio.Task[socket.socket] | None = None
    try:
        while winner is None:
            if waiting:
                tasks.append(asyncio.create_task(_connected_to(waiting.popleft())))
            running = [task for task in tasks if not task.done()]
            if running:
                lead_s = _NEXT_ADDRESS_AFTER_S if waiting else None
                await asyncio.wait(running, timeout=lead_s, return_when=asyncio.FIRST_COMPLETED)
            elif not waiting:
                break
            winner = next((task for task in tasks if task.done() and task.exception() is None), None)
    finally:
        _drop(task for task in tasks if task is not winner)
    return (winner or tasks[0]).result()


async def _connected_to(address: _Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address.address)
    except BaseException:
        sock.close()
        raise
    return sock


def _drop(tasks: Iterable[asyncio.Task[socket.socket]]) -> None:
    for task in tasks:
        task.cancel()
        task.add_done_callback(_close_connected)


def _close_connected(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
