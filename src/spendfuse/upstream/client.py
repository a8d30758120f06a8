"""The contract of an upstream client.

Failure policy: a failure says whether the request can have reached the provider. `NeverSent` proves that nothing was
billed; everything else leaves the call's fate unknown. A POST is never repeated by the client.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from spendfuse.core.errors import SpendfuseError


class UpstreamError(SpendfuseError):
    """An attempt failed without an answer."""


class NeverSent(UpstreamError):
    """No connection came about, or the request was not fully sent: nothing can have been billed."""


class FateUnknown(UpstreamError):
    """The request was sent, and then the connection broke."""


class UpstreamTimeout(FateUnknown):
    """The request was sent, and no (further) byte came in time."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One POST to a provider. Timeouts are seconds: to connect, to the first byte, between two reads, in all."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    connect_timeout_s: float = 10.0
    first_byte_timeout_s: float = 300.0
    read_timeout_s: float = 120.0
    total_timeout_s: float = 600.0


class UpstreamResponse(Protocol):
    """An answer whose head has arrived."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, never more than it asks for: not reading holds the provider back.

        Raises:
            FateUnknown, UpstreamTimeout: the connection broke or stalled before the body's end.
        """
        ...

    async def read(self, bytes_max: int) -> bytes:
        """The whole body.

        Raises:
            FateUnknown: as `chunks`, or the body is larger than `bytes_max`.
        """
        ...


class UpstreamClient(Protocol):
    """Sends calls to providers over kept connections."""

    def post(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Send a request; the context holds its answer. Leaving the context before the body's end, or cancelling,
        closes the connection at once, so that the provider stops.

        Raises:
            NeverSent, FateUnknown, UpstreamTimeout: on entering.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
