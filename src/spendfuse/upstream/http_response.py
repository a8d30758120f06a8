"""An answer between the connection that reads it and the call that takes it."""

import asyncio
from collections.abc import AsyncIterator, ItemsView, Iterator, Mapping
from typing import Protocol

from spendfuse.upstream.client import FateUnknown, UpstreamError


class ResponseHeaders(Mapping[str, str]):
    """Headers as they came: in order, duplicates included. A look-up is case-insensitive and gives the first."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def __getitem__(self, name: str) -> str:
        wanted = name.lower()
        for known, value in self.pairs:
            if known.lower() == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def items(self) -> ItemsView[str, str]:
        """Every header, each of several with the same name too."""
        return _Pairs(self)


class _Pairs(ItemsView[str, str]):
    def __init__(self, headers: ResponseHeaders) -> None:
        super().__init__(headers)
        self._pairs = headers.pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __contains__(self, item: object) -> bool:
        return item in self._pairs


_NO_HEADERS = ResponseHeaders([])


class Source(Protocol):
    """The connection that an answer comes from."""

    def resume(self) -> None:
        """Read on, where reading was held back."""
        ...

    def abort(self) -> None:
        """Close at once; the answer hears nothing more."""
        ...


class HttpResponse:
    """One answer; also the iterator over its chunks.

    Its connection calls `begin`, `add`, `end`, `fail` and `wake`; whoever made the call uses the rest.
    """

    __slots__ = ("_failure", "_is_complete", "_loop", "_pieces", "_source", "_waiter", "headers", "size", "status")

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.status = 0
        self.headers: Mapping[str, str] = _NO_HEADERS
        self.size = 0
        """Bytes of the body that nobody has taken yet."""
        self._pieces: list[bytes] = []
        self._is_complete = False
        self._failure: UpstreamError | None = None
        self._source: Source | None = source
        """None once the connection has no more part in this answer: it may be serving the next call."""
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Its head has arrived."""
        return self.status != 0

    def begin(self, status: int, headers: ResponseHeaders) -> None:
        """The head has arrived."""
        self.status = status
        self.headers = headers

    def add(self, piece: bytes) -> None:
        """Part of the body has arrived; `wake` follows."""
        self._pieces.append(piece)
        self.size += len(piece)

    def end(self) -> None:
        """All of it has arrived."""
        self._is_complete = True
        self._source = None
        self.wake()

    def fail(self, failure: UpstreamError) -> None:
        """Nothing more will arrive. What did arrive can still be taken, and then the failure is raised."""
        self._failure = failure
        self._source = None
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def head(self) -> None:
        """Wait for the head.

        Raises:
            NeverSent, FateUnknown, UpstreamTimeout: it will not come.
        """
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._woken()

    def abandon(self) -> None:
        """Close the connection at once, unless all has arrived."""
        source = self._source
        if source is not None:
            self.fail(FateUnknown("the answer was not read to its end"))
            source.abort()

    def chunks(self) -> AsyncIterator[bytes]:
        """See `UpstreamResponse`."""
        return self

    def __aiter__(self) -> "HttpResponse":
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._is_complete:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._failure
            await self._woken()
        return self._taken()

    async def read(self, bytes_max: int) -> bytes:
        """See `UpstreamResponse`."""
        if self._is_complete and self.size <= bytes_max:
            return self._taken()
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > bytes_max:
                self.abandon()
                raise FateUnknown(f"the upstream's answer is larger than {bytes_max} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def _taken(self) -> bytes:
        pieces = self._pieces
        chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self.size = 0
        if self._source is not None:
            self._source.resume()
        return chunk

    async def _woken(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
