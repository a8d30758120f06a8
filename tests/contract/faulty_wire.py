"""A wire between an engine and its PostgreSQL server that fails where a test says."""

import asyncio
import contextlib
from enum import Enum, auto
from urllib.parse import parse_qs, urlsplit

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""As it stands on the wire."""


class Fault(Enum):
    """What happens to the next commit, or to everything."""

    NONE = auto()
    LOSE_COMMIT = auto()
    """The connection breaks before the server gets the commit."""
    LOSE_ANSWER = auto()
    """The server commits, and the connection breaks before the client hears of it."""
    LOSE_ANSWER_AND_LEAVE = auto()
    """As before, and no connection is accepted until `resume`."""
    HOLD_COMMIT = auto()
    """The server never gets the commit, and the client hears nothing."""
    HANG = auto()
    """Nothing passes."""


class FaultyWire:
    """Passes bytes on to the socket in a folder, from a port of its own. Each fault happens once but `HANG`."""

    def __init__(self, dsn: str) -> None:
        self._folder = parse_qs(urlsplit(dsn).query)["host"][0]
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self.fault = Fault.NONE
        self.is_away = False
        self.flows = asyncio.Event()
        self.flows.set()

    @property
    def dsn(self) -> str:
        """Where the engine connects."""
        return f"postgresql://postgres:@127.0.0.1:{self._port}/postgres?sslmode=disable"

    async def start(self) -> None:
        """Accept connections; once stopped, again on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Break every connection, and refuse new ones."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection."""
        for one in list(self._connections):
            one.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_away:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_unix_connection(f"{self._folder}/.s.PGSQL.5432")
        both = {writer, server_writer}
        self._connections |= both
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(self._to_server(reader, server_writer), self._to_client(server_reader, writer))
        finally:
            for one in both:
                one.transport.abort()
            self._connections -= both
            self._tasks.discard(task)

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._pass_time()
            if data.endswith(COMMIT):
                match self.fault:
                    case Fault.LOSE_COMMIT:
                        self.fault = Fault.NONE
                        raise ConnectionResetError
                    case Fault.HOLD_COMMIT:
                        self.fault = Fault.NONE
                        continue
                    case _:
                        pass
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._pass_time()
            loses_answer = self.fault in (Fault.LOSE_ANSWER, Fault.LOSE_ANSWER_AND_LEAVE)
            if loses_answer and data.startswith(b"C\x00\x00\x00\x0bCOMMIT\x00"):
                self.is_away = self.fault is Fault.LOSE_ANSWER_AND_LEAVE
                self.fault = Fault.NONE
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _pass_time(self) -> None:
        if self.fault is Fault.HANG:
            self.flows.clear()
        await self.flows.wait()

    def resume(self) -> None:
        """Let everything pass again."""
        self.fault = Fault.NONE
        self.is_away = False
        self.flows.set()
