"""The input bound: at least as many tokens as a call's input can be billed as.

Bytes come first: a token of text is at least a byte, and the JSON around a text has more bytes than a chat template
has tokens. Counting replaces them where we hold the model's vocabulary. Everything here is an upper bound; what is
added for templates is stated below.
"""

from dataclasses import dataclass

from spendfuse.core.calls import Content, MediaKind, Operation
from spendfuse.pricing.caps import ModelCaps
from spendfuse.pricing.media import media_bound
from spendfuse.pricing.tokens import COUNTED_BYTES_MAX, count

MESSAGE_TOKENS = 4
"""The frame of a message: three, and one for a name."""
TEXT_TOKENS = 1
"""For each text that is counted by itself: texts that are joined can only lose tokens, but for their separators."""
REPLY_TOKENS = 16
"""What opens the reply (three), and what a schema or a setting adds to the template."""
TOOL_TOKENS = 16
"""What a tool costs beside its JSON, and what the list of tools does."""
TOOLS_PERCENT = 110
"""Vendors write tools in a form of their own, which may take more tokens than their JSON."""
FOREIGN_TEMPLATE_TOKENS = 128
"""What vendors other than OpenAI put before a chat without being asked."""
FOREIGN_TOOLS_TOKENS = 1_024
"""The instructions that other vendors add as soon as there are tools (Anthropic: up to about 800)."""
PROVIDER_COUNT_PERCENT = 103
PROVIDER_COUNT_TOKENS = 32
"""Added to a vendor's own count, which by its own words may differ from the bill by a small amount."""


@dataclass(frozen=True, slots=True)
class InputBound:
    """At most `tokens` of input. `audio`: some of them may be audio. `counted`: texts were counted, not their bytes."""

    tokens: int
    audio: bool = False
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Unboundable:
    """The call has content that nothing bounds. `message` says what and what to do."""

    message: str


def input_bound(
    content: Content,
    caps: ModelCaps,
    *,
    operation: Operation,
    holds_vocabulary: bool,
    counted: bool,
    foreign_percent: int | None = None,
    provider_count: int | None = None,
) -> InputBound | Unboundable:
    """The bound of a call's input, `counted` if so asked and possible.

    Counting takes about 30 us for a kilobyte, releases the GIL and loads the vocabulary when it is the first: call it
    in a thread. It is left out above `COUNTED_BYTES_MAX`, where bytes stay the bound. With a `foreign_percent` a model
    whose vocabulary we do not hold is counted by ours, times that; the result is an estimate then, no bound.
    A `provider_count` is the provider's own for the whole input; a margin is added, as vendors call theirs an estimate.
    """
    beside_text = _beside_text(content, caps)
    if isinstance(beside_text, Unboundable):
        return beside_text
    percent = 100 if holds_vocabulary else foreign_percent
    can_count = counted and percent is not None and content.text_bytes <= COUNTED_BYTES_MAX
    text_tokens = content.text_bytes
    if operation is not Operation.EMBEDDINGS:
        text_tokens += _template_tokens(content, is_foreign=not holds_vocabulary)
    if can_count and percent is not None:
        text_tokens = min(text_tokens, -(-_counted_bound(content) * percent // 100))
    tokens = text_tokens + content.token_ids + content.added_tokens + beside_text
    if provider_count is not None:
        tokens = min(tokens, -(-provider_count * PROVIDER_COUNT_PERCENT // 100) + PROVIDER_COUNT_TOKENS)
    # A window is that of one text: an embeddings call may have many.
    if caps.context_window is not None and operation is not Operation.EMBEDDINGS:
        tokens = min(tokens, caps.context_window)
    return InputBound(tokens, _may_have_audio(content), can_count or provider_count is not None)


def _template_tokens(content: Content, *, is_foreign: bool) -> int:
    """What a chat template adds beside the JSON of the body."""
    if not is_foreign:
        return TOOL_TOKENS if content.tools else 0
    return FOREIGN_TEMPLATE_TOKENS + (FOREIGN_TOOLS_TOKENS if content.tools else 0)


def _counted_bound(content: Content) -> int:
    texts = content.texts()
    tokens = sum(map(count, texts))
    if content.tools:
        # Which of the texts are tools is not told apart.
        tokens = -(-tokens * TOOLS_PERCENT // 100) + TOOL_TOKENS * (1 + content.tools)
    return tokens + MESSAGE_TOKENS * content.messages + TEXT_TOKENS * len(texts) + REPLY_TOKENS


def _beside_text(content: Content, caps: ModelCaps) -> int | Unboundable:
    """Media and references, each at most at the whole window."""
    tokens = 0
    for media in content.media:
        bound = media_bound(media, caps.media)
        if bound is None:
            bound = caps.context_window
        if bound is None:
            return Unboundable(
                f"the {media.kind.value} cannot be priced, as the context window of this model is not known: "
                "send text only, or set context_window for the model"
            )
        tokens += bound if caps.context_window is None else min(bound, caps.context_window)
    if not content.references:
        return tokens
    reference = caps.context_window if caps.reference_tokens is None else caps.reference_tokens
    if reference is None:
        return Unboundable(
            "content that is only named (a URL, a file id) cannot be priced, as the context window of this model is "
            "not known: send it inline as text, or set reference_tokens or context_window for the model"
        )
    return tokens + content.references * reference


def _may_have_audio(content: Content) -> bool:
    return content.references > 0 or any(one.kind in (MediaKind.AUDIO, MediaKind.OTHER) for one in content.media)
