"""What a dialect can do: read a request, write it for an upstream, meter the answer, and refuse in the client's words.

Pure: bytes in, values and bytes out. A dialect never sees a socket, a price or a limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from spendfuse.core.calls import Call, Operation
from spendfuse.core.refusals import Deny
from spendfuse.core.usage import Metered, Usage


@dataclass(frozen=True, slots=True)
class WireTarget:
    """What a dialect has to know of the upstream it writes for.

    `model` is the provider's name of the model. `cap_field` is the name under which the target obeys an output cap
    (`max_tokens` or `max_completion_tokens`). `pins_service_tier`: the provider may serve a dearer tier by default, so
    the standard one is asked for by name. `takes_stream_options`: False for a provider that refuses the field.
    """

    model: str
    cap_field: str = "max_completion_tokens"
    pins_service_tier: bool = False
    takes_stream_options: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer in a dialect."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class Visible:
    """What a stream has shown so far. Every count is a lower bound of what was generated."""

    deltas: int = 0
    """Pieces of output, by event and choice: at least one token each."""
    text_bytes: int = 0
    """Bytes of all shown text in UTF-8: it has at most as many tokens."""
    has_hidden: bool = False
    """Some output is billed but not shown (reasoning, audio), so counting what is shown says little."""
    _pieces: dict[int, list[str]] = field(default_factory=dict[int, list[str]], repr=False)

    @property
    def texts(self) -> list[str]:
        """What each choice has shown, joined: reasoning, content, and the names and arguments of tools it calls."""
        return ["".join(pieces) for _, pieces in sorted(self._pieces.items())]

    def show(self, choice: int, text: str) -> None:
        """A further piece of a choice's output."""
        self.deltas += 1
        self.text_bytes += len(text) if text.isascii() else len(text.encode())
        pieces = self._pieces.get(choice)
        if pieces is None:
            pieces = self._pieces[choice] = []
        pieces.append(text)


class StreamMeter(Protocol):
    """Reads usage out of a stream that passes through, event by event."""

    visible: Visible
    error_seen: bool
    """The provider reported an error within the stream; it was passed on."""
    has_unread: bool
    """Something passed that could not be read (not JSON, or too large), so usage may have been missed."""

    def feed(self, chunk: bytes) -> bytes:
        """Take upstream bytes, cut anywhere; return what goes to the client: the same bytes, without the usage chunk
        that only the gateway asked for. An event is held back until its end has come, never longer: no client can use
        a part of one, and a cut then never leaves half of one behind.
        """
        ...

    def finish(self) -> bytes:
        """The upstream has ended: whatever was still held back."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the stream's own end was seen (`[DONE]`)."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The provider's own usage, once its chunk was seen; None without."""
        ...

    def cut(self, usage: Usage) -> bytes:
        """A well-formed end for a stream that is cut here: the rest of an event that was begun is dropped, every open
        choice gets `finish_reason: length`, the usage chunk follows where the client asked for one, then `[DONE]`.
        """
        ...


class Dialect(Protocol):
    """One API of the outside world."""

    @property
    def operation(self) -> Operation:
        """The path it serves."""
        ...

    def parse(self, body: bytes) -> Call | Deny:
        """Read a request body.

        Refuses what is not JSON in UTF-8, repeats a key at any depth, holds NaN or infinity, has a wrong type where
        type matters, or asks for something that can neither be priced nor capped.
        """
        ...

    def render(self, call: Call, target: WireTarget, *, cap: int | None) -> bytes:
        """The body to send upstream: as parsed, with the target's model, the reserved cap, and usage asked for."""
        ...

    def fingerprint(self, call: Call) -> str:
        """A hash of the whole body less ids and metadata: equal for retries of the same request."""
        ...

    def metered(self, body: bytes) -> Metered | None:
        """The usage in a whole (not streamed) answer: exact where the provider said it, else what its texts show as
        `AtLeast` zero tokens; None when the body is no answer of this dialect at all."""
        ...

    def stream_meter(self, call: Call) -> StreamMeter:
        """A meter for one stream."""
        ...

    def refuse(self, deny: Deny) -> Answer:
        """A refusal in this dialect's error shape, with the headers that steer its SDKs."""
        ...

    def headers_upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """The client's headers that may go upstream: only known ones, never credentials or `x-spendfuse-*`."""
        ...
