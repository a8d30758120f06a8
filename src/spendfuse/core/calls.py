"""A call as read from a request, before anything is known of its caller or its target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import NewType

Body = NewType("Body", object)
"""A parsed request body, opaque to all but the dialect that made it."""


class Operation(StrEnum):
    """What a call asks for; the values are the paths below `/v1/`."""

    CHAT = "chat/completions"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    COUNT_TOKENS = "messages/count_tokens"

    @property
    def is_billed(self) -> bool:
        """Whether providers take money for it: a count of tokens is free."""
        return self is not Operation.COUNT_TOKENS


class CacheWrite(Enum):
    """For how long a call asks the provider to keep its input; the dearer the longer."""

    NONE = "none"
    SHORT = "short"
    LONG = "long"


class MediaKind(StrEnum):
    """What inline media is; the price of an input token does not follow from its bytes."""

    IMAGE = "image"
    AUDIO = "audio"
    DOCUMENT = "document"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Media:
    """One piece of inline media. `detail` is the image detail that the client asked for, if any."""

    kind: MediaKind
    mime: str
    base64: str = field(repr=False)
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What can be billed as input.

    `text_bytes` are the bytes of the body without its inline media: at least as many as its text has tokens.
    `texts` gives, when called, every text that is billed as tokens (messages, names, tools, schemas), for counting.
    `token_ids` are input tokens that the client sent ready-made. `references` counts content that is only named (a URL,
    a file id): its size is unknown.
    """

    text_bytes: int
    texts: Callable[[], list[str]] = field(repr=False)
    messages: int = 0
    tools: int = 0
    token_ids: int = 0
    added_tokens: int = 0
    """What the provider adds, at most, beside the text (instructions of tools that it defines)."""
    media: tuple[Media, ...] = ()
    references: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM request from a client.

    `cap` is the client's own limit of output tokens for each choice, None where it named none. `choices` is choices x
    prompts. `has_output` is False for operations that bill no output (embeddings).
    """

    operation: Operation
    model: str
    body: Body = field(repr=False)
    content: Content = field(repr=False)
    stream: bool = False
    wants_usage_chunk: bool = False
    """The client itself asked for the chunk of usage that ends a stream."""
    cap: int | None = None
    choices: int = 1
    has_output: bool = True
    output_audio: bool = False
    is_structured: bool = False
    """The answer must follow a schema: cut short it is useless."""
    thinking_tokens: int = 0
    """A thinking budget that comes on top of the useful minimum."""
    thinks: bool = False
    """Asks for thinking, which is billed whether it is shown or not."""
    cache_write: CacheWrite = CacheWrite.LONG
    """What it asks to be kept. A provider that keeps input without being asked does not look at it."""
    service_tier: str | None = None
    claimed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels that the body claims, weaker than those of the key and of the headers."""
