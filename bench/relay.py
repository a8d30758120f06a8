"""The floor: a relay of bytes that understands nothing, on the gateway's own event loop and in Python as well.

python -m bench.relay PORT_OF_THE_UPSTREAM
"""

import asyncio
import sys
from typing import cast

import uvloop

from bench.upstream import serve


class _Upstream(asyncio.Protocol):
    def __init__(self, down: asyncio.WriteTransport) -> None:
        self._down = down

    def data_received(self, data: bytes) -> None:
        self._down.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._down.close()


class _Downstream(asyncio.Protocol):
    """A connection of a client; it keeps one to the upstream."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._unsent: list[bytes] = []
        self._up: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._down = cast("asyncio.WriteTransport", transport)
        self._dialing = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        self._up, _ = await loop.create_connection(lambda: _Upstream(self._down), "127.0.0.1", self._port)
        self._up.writelines(self._unsent)

    def data_received(self, data: bytes) -> None:
        if self._up is None:
            self._unsent.append(data)
        else:
            self._up.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._up is not None:
            self._up.close()


if __name__ == "__main__":
    uvloop.run(serve(lambda: _Downstream(int(sys.argv[1]))))
