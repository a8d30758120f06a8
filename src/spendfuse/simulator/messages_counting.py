"""How many tokens a prompt of the Messages API bills.

Claude's vocabulary is not public. The simulator's Claude takes six tokens for
every five of o200k, rounded up over the whole text; the rest (images by their
size, a frame of a few tokens, the prompt that explains tools) follows the
vendor's published figures, and where it publishes none, the simulator's own.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.counting import base64_bytes, count_text, pdf_pages
from spendfuse.simulator.errors import ProviderError
from spendfuse.simulator.images import Size, image_size
from spendfuse.simulator.messages_cache import Boundary
from spendfuse.simulator.messages_checks import marks_of
from spendfuse.simulator.messages_requests import (
    Block,
    CacheControl,
    ContentSource,
    CustomTool,
    DocumentBlock,
    ImageBlock,
    InlineImage,
    InlinePdf,
    PlainText,
    Prompt,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    VendorTool,
)

CLAUDE_PER_O200K = (6, 5)
"""The factor between the vocabularies: 1.2."""
MESSAGE_TOKENS = 3
REPLY_TOKENS = 3
TOOLS_TOKENS = 346
VENDOR_TOOL_TOKENS: Mapping[str, int] = {"bash": 245, "text_editor": 700, "memory": 700}

IMAGE_LONGEST_SIDE = 1_568
IMAGE_PIXELS_PER_TOKEN = 750
IMAGE_TOKENS_MAX = 1_600

_VERSION = re.compile(r"_\d+$")


@dataclass(frozen=True, slots=True)
class PromptCount:
    tokens: int
    boundaries: tuple[Boundary, ...]


@dataclass(frozen=True, slots=True)
class _Weight:
    """Tokens of o200k, which Claude has more of, and tokens that are its own already."""

    o200k: int = 0
    own: int = 0

    def __add__(self, other: "_Weight") -> "_Weight":
        return _Weight(self.o200k + other.o200k, self.own + other.own)

    @property
    def tokens(self) -> int:
        claude, o200k = CLAUDE_PER_O200K
        return -(-self.o200k * claude // o200k) + self.own


@dataclass(frozen=True, slots=True)
class _Segment:
    """A block with its place in the prompt: what a breakpoint on it would end."""

    content: str
    weight: _Weight
    marks: list[CacheControl]


def count_prompt(prompt: Prompt, rates: Behaviour) -> PromptCount:
    """The input of a call, and where it could be cut for the cache: tools first, then system, then messages.

    Raises:
        ProviderError: 400, for media that cannot be read.
    """
    total, digest = _Weight(), blake2b(digest_size=16)
    boundaries: list[Boundary] = []
    for segment in _segments(prompt, rates):
        total += segment.weight
        content = segment.content.encode()
        digest.update(b"%d:" % len(content) + content)
        ttl = segment.marks[-1].ttl if segment.marks else None
        boundaries.append(Boundary(total.tokens, digest.digest(), ttl))
    if prompt.cache_control is not None and boundaries and boundaries[-1].ttl is None:
        last = boundaries[-1]
        boundaries[-1] = Boundary(last.tokens, last.digest, prompt.cache_control.ttl)
    total += _Weight(own=REPLY_TOKENS)
    if prompt.output_config is not None and prompt.output_config.format is not None:
        total += _text(prompt.output_config.model_dump_json(exclude={"effort"}))
    return PromptCount(total.tokens, tuple(boundaries))


def image_tokens(size: Size) -> int:
    """The cost of an image: it is made to fit first."""
    scale = min(1.0, IMAGE_LONGEST_SIDE / max(size))
    tokens = math.ceil(round(size[0] * scale * size[1] * scale / IMAGE_PIXELS_PER_TOKEN, 6))
    return min(tokens, IMAGE_TOKENS_MAX)


def _segments(prompt: Prompt, rates: Behaviour) -> Iterator[_Segment]:
    own = TOOLS_TOKENS
    for tool in prompt.tools or ():
        yield _Segment("tool" + tool.model_dump_json(), _tool(tool) + _Weight(own=own), marks_of(tool))
        own = 0
    for block in prompt.system_blocks:
        yield _Segment("system" + block.model_dump_json(), _text(block.text), marks_of(block))
    for message in prompt.messages:
        own = MESSAGE_TOKENS
        for block in message.blocks:
            content = message.role + block.model_dump_json()
            yield _Segment(content, _block(block, rates) + _Weight(own=own), marks_of(block))
            own = 0


def _text(text: str) -> _Weight:
    return _Weight(o200k=count_text(text))


def _tool(tool: CustomTool | VendorTool) -> _Weight:
    if isinstance(tool, VendorTool):
        return _Weight(own=VENDOR_TOOL_TOKENS[_VERSION.sub("", tool.type)])
    return _text(tool.model_dump_json(exclude_none=True))


def _block(block: Block, rates: Behaviour) -> _Weight:
    match block:
        case TextBlock():
            return _text(block.text)
        case ImageBlock():
            return _Weight(own=_image(block, rates))
        case DocumentBlock():
            return _document(block, rates)
        case ToolUseBlock():
            return _text(block.model_dump_json(include={"name", "input"}))
        case ThinkingBlock():
            return _text(block.thinking)
        case RedactedThinkingBlock():
            return _text(block.data)
        case _:
            parts = [TextBlock(type="text", text=block.content)] if isinstance(block.content, str) else block.content
            return sum((_block(part, rates) for part in parts or ()), _Weight(own=MESSAGE_TOKENS))


def _image(block: ImageBlock, rates: Behaviour) -> int:
    if not isinstance(block.source, InlineImage):
        return image_tokens(rates.image_url_size)
    size = image_size(base64_bytes(block.source.data))
    if size is None:
        raise ProviderError(400, "Could not process image")
    return image_tokens(size)


def _document(block: DocumentBlock, rates: Behaviour) -> _Weight:
    about = _text(block.title or "") + _text(block.context or "")
    match block.source:
        case InlinePdf(data=data):
            return about + _Weight(own=pdf_pages(base64_bytes(data)) * rates.file_page_tokens)
        case PlainText(data=data):
            return about + _text(data)
        case ContentSource(content=str(text)):
            return about + _text(text)
        case ContentSource(content=list(parts)):
            return sum((_block(part, rates) for part in parts), about)
        case _:
            return about + _Weight(own=rates.file_tokens)
