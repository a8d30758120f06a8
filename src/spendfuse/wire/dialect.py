"""What is said on both sides: a dialect reads requests and refuses in the client's words; an exchange writes them for a
provider, meters its answer and gives it back in the dialect.

Pure: bytes in, values and bytes out. Neither ever sees a socket, a price or a limit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from spendfuse.core.calls import Call, Operation
from spendfuse.core.refusals import Deny
from spendfuse.core.usage import Metered, Usage

NO_HEADERS: Mapping[bytes, bytes] = {}


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
    """Reads usage out of a stream that passes through, event by event, translating it where that is needed."""

    visible: Visible
    error_seen: bool
    """The provider reported an error within the stream; it was passed on."""
    has_unread: bool
    """Something passed that could not be read (not JSON, or too large), so usage may have been missed."""

    def feed(self, chunk: bytes) -> bytes:
        """Take upstream bytes, cut anywhere; return what goes to the client: in the same dialect the same bytes,
        without the usage chunk that only the gateway asked for. An event is held back until its end has come, never
        longer: no client can use a part of one, and a cut then never leaves half of one behind.
        """
        ...

    def finish(self) -> bytes:
        """The upstream has ended: whatever was still held back."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the stream's own end was seen (`[DONE]`, `message_stop`)."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The provider's own usage, once its chunk was seen; None without."""
        ...

    def cut(self, usage: Usage) -> bytes:
        """A well-formed end for a stream that is cut here: the rest of an event that was begun is dropped, what is
        open is closed as cut short (`finish_reason: length`, `stop_reason: max_tokens`), usage follows where the
        client gets one, then the stream's own end.
        """
        ...


class TokenCounter(Protocol):
    """A provider's free count of a call's input."""

    @property
    def operation(self) -> Operation:
        """The path that counts."""
        ...

    def render(self, call: Call, target: WireTarget) -> bytes | None:
        """The body to send there; None for a call whose count would bound nothing (content that is only named)."""
        ...

    def read(self, body: bytes) -> int | None:
        """The count in an answer; None when it has none."""
        ...


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A whole answer as it was read.

    `metered` is its usage, as the provider gave it: exact where it said it, else what its texts show as `AtLeast` zero
    tokens; None when it is no answer of its API at all. `told` is what the client gets: the same bytes in the same
    dialect; None when it can't be translated.
    """

    metered: Metered | None
    told: bytes | None = field(repr=False)


class Exchange(Protocol):
    """How calls of one dialect are carried out with providers of one API: in their own words, or translated."""

    @property
    def operation(self) -> Operation:
        """The provider's path."""
        ...

    @property
    def counter(self) -> TokenCounter | None:
        """The provider's own way of counting input; None where it has none that is free."""
        ...

    def carry(self, call: Call) -> Call | Deny:
        """The call in the provider's words; refused when something in it can't be said there. Nothing is dropped."""
        ...

    def render(self, call: Call, target: WireTarget, *, cap: int | None) -> bytes:
        """The body to send, of a call that `carry` gave: with the target's model, the reserved cap, and usage asked
        for.
        """
        ...

    def headers_upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """The headers that go along: known ones of the client's, never credentials or `x-spendfuse-*`, and what the
        API wants beside.
        """
        ...

    def read(self, body: bytes) -> WholeAnswer:
        """A provider's whole (not streamed) answer."""
        ...

    def error(self, status: int, body: bytes) -> bytes:
        """A provider's error as the client reads it: the same bytes in the same dialect."""
        ...

    def stream_meter(self, call: Call) -> StreamMeter:
        """A meter for one stream of a call that `carry` gave."""
        ...


class OwnWords(ABC):
    """What an exchange in the client's own dialect does: everything passes as it is."""

    @property
    def counter(self) -> TokenCounter | None:
        """See `Exchange`."""
        return None

    def carry(self, call: Call) -> Call | Deny:
        """See `Exchange`."""
        return call

    def read(self, body: bytes) -> WholeAnswer:
        """See `Exchange`."""
        return WholeAnswer(self.metered(body), body)

    @abstractmethod
    def metered(self, body: bytes) -> Metered | None:
        """See `WholeAnswer`."""

    def error(self, status: int, body: bytes) -> bytes:
        """See `Exchange`."""
        return body


class Dialect(Protocol):
    """One path of an API as clients speak it."""

    @property
    def operation(self) -> Operation:
        """The path it serves."""
        ...

    def parse(self, body: bytes, headers: Mapping[bytes, bytes]) -> Call | Deny:
        """Read a request.

        Refuses a body that is not JSON in UTF-8, repeats a key at any depth, holds NaN or infinity, has a wrong type
        where type matters, or asks (in the headers too, by lower case name) for something that can neither be priced
        nor capped.
        """
        ...

    def fingerprint(self, call: Call) -> str:
        """A hash of the whole body less ids and metadata: equal for retries of the same request; empty for none."""
        ...

    def refuse(self, deny: Deny) -> Answer:
        """A refusal in this dialect's error shape, with the headers that steer its SDKs."""
        ...
