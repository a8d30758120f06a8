"""How many tokens a request bills as input, by the vendor's published rules and its o200k vocabulary."""

import base64
import binascii
import io
import re
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import orjson

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.errors import ProviderError
from spendfuse.simulator.images import ImageRule, image_size
from spendfuse.simulator.requests import (
    AudioPart,
    ChatMessage,
    ChatRequest,
    EmbeddingsRequest,
    FilePart,
    ImagePart,
    ImageUrl,
    InputAudio,
    Part,
    TextPart,
)

MESSAGE_TOKENS = 3
NAME_TOKENS = 1
REPLY_TOKENS = 3
TOOLS_TOKENS = 12
"""What a list of tools costs beside its JSON."""

# Longer texts crash the tokenizer when they are adversarial (a megabyte of spaces).
SLICE_CHARACTERS = 50_000
# MP3 is not decoded: it is billed as if it had the lowest rate that speech is sold in.
MP3_BYTES_PER_S = 4_000

# The vocabulary always begins a token at a space behind a letter or digit: cutting there changes no count.
_WORD_END = re.compile(r"[A-Za-z0-9](?= )")
_CUT_WITHIN_CHARACTERS = 5_000

_PDF_PAGE = re.compile(rb"/Type\s*/Page\b")


@dataclass(frozen=True, slots=True)
class InputCount:
    tokens: int
    audio_tokens: int = 0

    def __add__(self, other: "InputCount") -> "InputCount":
        return InputCount(self.tokens + other.tokens, self.audio_tokens + other.audio_tokens)


def tokens_of(text: str) -> list[int]:
    """The text's o200k tokens; special tokens in it are plain text."""
    # Imported when first needed: the vocabulary costs 100 MB, and benchmarks run without it.
    from spendfuse.pricing.tokens import encoding

    return [token for piece in _slices(text) for token in encoding().encode_ordinary(piece)]


def single_tokens(text: str) -> tuple[str, ...]:
    """The text cut into its tokens; only for ASCII, where every token is whole characters."""
    from spendfuse.pricing.tokens import encoding

    return tuple(encoding().decode_single_token_bytes(token).decode("ascii") for token in tokens_of(text))


def _slices(text: str) -> Iterator[str]:
    """The text in slices that the tokenizer bears, cut between words where there are any."""
    start = 0
    while len(text) - start > SLICE_CHARACTERS:
        end = start + SLICE_CHARACTERS
        ends = [match.end() for match in _WORD_END.finditer(text, end - _CUT_WITHIN_CHARACTERS, end)]
        cut = ends[-1] if ends else end
        yield text[start:cut]
        start = cut
    yield text[start:]


def count_text(text: str) -> int:
    return len(tokens_of(text))


def count_chat(request: ChatRequest, rule: ImageRule, rates: Behaviour) -> InputCount:
    """The input of a chat call.

    Raises:
        ProviderError: 400, for media that cannot be read.
    """
    total = InputCount(REPLY_TOKENS)
    if request.tools:
        total += InputCount(TOOLS_TOKENS + count_text(orjson.dumps(request.tools).decode()))
    if request.response_format is not None and request.response_format.get("type") == "json_schema":
        total += InputCount(count_text(orjson.dumps(request.response_format).decode()))
    for message in request.messages:
        total += InputCount(_message_frame(message))
        for part in _parts(message):
            total += _count_part(part, rule, rates)
    return total


def count_embeddings(request: EmbeddingsRequest) -> int:
    return sum(count_text(text) if isinstance(text, str) else len(text) for text in request.texts)


def _message_frame(message: ChatMessage) -> int:
    """All of a message but its content. The role is a token like any other, beside the three of the frame."""
    tokens = MESSAGE_TOKENS + count_text(message.role)
    if message.name is not None:
        tokens += NAME_TOKENS + count_text(message.name)
    for call in message.tool_calls or ():
        tokens += MESSAGE_TOKENS + count_text(call.function.name) + count_text(call.function.arguments)
    return tokens


def _parts(message: ChatMessage) -> Iterator[Part]:
    if isinstance(message.content, str):
        yield TextPart(type="text", text=message.content)
    elif message.content is not None:
        yield from message.content


def _count_part(part: Part, rule: ImageRule, rates: Behaviour) -> InputCount:
    if isinstance(part, TextPart):
        return InputCount(count_text(part.text))
    if isinstance(part, ImagePart):
        return InputCount(_image_tokens(part.image_url, rule, rates))
    if isinstance(part, AudioPart):
        tokens = _audio_tokens(part.input_audio, rates)
        return InputCount(tokens, audio_tokens=tokens)
    if isinstance(part, FilePart):
        return InputCount(_file_tokens(part, rates))
    return InputCount(count_text(part.refusal))


def _image_tokens(image: ImageUrl, rule: ImageRule, rates: Behaviour) -> int:
    if not image.url.startswith("data:"):
        return rule.tokens(rates.image_url_size, image.detail)
    size = image_size(_data_uri_bytes(image.url))
    if size is None:
        message = "You uploaded an unsupported image. Please make sure your image is valid."
        raise ProviderError(400, message, param="messages", code="invalid_image_format")
    return rule.tokens(size, image.detail)


def _audio_tokens(audio: InputAudio, rates: Behaviour) -> int:
    data = base64_bytes(audio.data)
    milliseconds = _wav_ms(data) if audio.format == "wav" else -(-len(data) * 1_000 // MP3_BYTES_PER_S)
    return -(-milliseconds * rates.audio_tokens_per_s // 1_000)


def _wav_ms(data: bytes) -> int:
    """The duration of the sound that is there: a header may promise more than follows it."""
    try:
        with wave.open(io.BytesIO(data)) as sound:
            frame_bytes = sound.getnchannels() * sound.getsampwidth()
            frames = min(sound.getnframes(), len(data) // frame_bytes)
            return -(-frames * 1_000 // sound.getframerate())
    except (wave.Error, EOFError, ZeroDivisionError):
        raise ProviderError(400, "The audio could not be read.", param="messages", code="invalid_value") from None


def _file_tokens(part: FilePart, rates: Behaviour) -> int:
    if part.file.file_data is None:
        return rates.file_tokens
    return pdf_pages(_data_uri_bytes(part.file.file_data)) * rates.file_page_tokens


def pdf_pages(data: bytes) -> int:
    """The pages of a PDF, at least one."""
    return max(len(_PDF_PAGE.findall(data)), 1)


def _data_uri_bytes(uri: str) -> bytes:
    head, _, data = uri.partition(",")
    return base64_bytes(data) if head.endswith(";base64") else unquote_to_bytes(data)


def base64_bytes(text: str) -> bytes:
    """The bytes that the text stands for; raises a 400 if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ProviderError(400, "Invalid base64 data.", param="messages", code="invalid_base64") from None
