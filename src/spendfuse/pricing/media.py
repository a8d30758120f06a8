"""Upper bounds for inline media: an image by its size, audio by its duration, a document by its pages.

None means that no rule bounds it: then only the context window does. Media is only ever read from its head, but for
documents, whose pages have to be found.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from spendfuse.core.calls import Media, MediaKind
from spendfuse.pricing.images import ImageRule, Size, image_size

HEAD_BYTES = 48 * 1_024
HEAD_BYTES_MAX = 768 * 1_024
"""Photographs carry their size behind a preview and their metadata. Beyond this the dearest size is assumed."""
DOCUMENT_BYTES_MAX = 8 * 1_024 * 1_024
MP3_BYTES_PER_S_MIN = 1_000
"""8 kbit/s, the lowest rate of the format."""

_BASE64_GROUP_BYTES = 3
_BASE64_GROUP_CHARACTERS = 4


@dataclass(frozen=True, slots=True)
class MediaRules:
    """How a model bills media, as far as it is known."""

    images: ImageRule | None = None
    audio_tokens_per_s: int | None = None
    document_page_tokens: int | None = None


NO_MEDIA_RULES = MediaRules()


def media_bound(media: Media, rules: MediaRules) -> int | None:
    """The most tokens that a piece of inline media can be billed as; None when only the context window bounds it."""
    match media.kind:
        case MediaKind.IMAGE:
            return rules.images.bound(_size(media.base64), media.detail) if rules.images else None
        case MediaKind.AUDIO:
            duration_s = _duration_s_max(media)
            if duration_s is None or rules.audio_tokens_per_s is None:
                return None
            return duration_s * rules.audio_tokens_per_s
        case MediaKind.DOCUMENT:
            pages = _pages_max(media.base64)
            return None if pages is None or rules.document_page_tokens is None else pages * rules.document_page_tokens
        case MediaKind.OTHER:
            return None


def _size(text: str) -> Size | None:
    """The size of an image, decoding no more than its head."""
    for length in (HEAD_BYTES, HEAD_BYTES_MAX):
        data = _head(text, length)
        size = image_size(data) if data is not None else None
        if size is not None or data is None or len(data) < length:
            return size
    return None


def _head(text: str, length: int) -> bytes | None:
    """The first bytes of base64 (a multiple of three); None when it is not strictly base64, as others may read it
    otherwise."""
    characters = length // _BASE64_GROUP_BYTES * _BASE64_GROUP_CHARACTERS
    try:
        return base64.b64decode(text[:characters], validate=True)
    except (binascii.Error, ValueError):
        return None


def _bytes_max(text: str) -> int:
    return -(-len(text) // _BASE64_GROUP_CHARACTERS) * _BASE64_GROUP_BYTES


def _duration_s_max(media: Media) -> int | None:
    """The longest that audio can be, in whole seconds; None for a format that is not known."""
    name = media.mime.partition(";")[0].rpartition("/")[2].removeprefix("x-")
    if name in ("wav", "wave"):
        return _wav_s_max(media.base64)
    if name in ("mp3", "mpeg"):
        return -(-_bytes_max(media.base64) // MP3_BYTES_PER_S_MIN)
    return None


_PCM_FORMATS = frozenset({1, 3, 6, 7, 0xFFFE})
"""Formats of WAV whose size follows from their duration."""


def _wav_s_max(text: str) -> int | None:
    """All bytes played at the slowest rate that the header allows to be read from it."""
    data = _head(text, HEAD_BYTES)
    if data is None or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at = data.find(b"fmt ", 12)
    if at < 0 or at + 24 > len(data):
        return None
    form, channels, rate, byte_rate, block, bits = (
        int.from_bytes(data[at + start : at + end], "little")
        for start, end in ((8, 10), (10, 12), (12, 16), (16, 20), (20, 22), (22, 24))
    )
    bytes_per_s = min(byte_rate, rate * block, rate * channels * -(-bits // 8))
    if form not in _PCM_FORMATS or bytes_per_s < 1:
        return None
    return -(-_bytes_max(text) // bytes_per_s)


_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_COUNT = re.compile(rb"/Count\s+(\d{1,9})")
_KIDS = re.compile(rb"/Kids\s*\[([^\]]*)\]")
_REFERENCE = re.compile(rb"\d+\s+\d+\s+R")
# Pages may hide in these: compressed objects, encryption, names written with escapes.
_OPAQUE = re.compile(rb"/ObjStm|/Encrypt|/#[0-9a-fA-F]|/[A-Za-z]+#[0-9a-fA-F]{2}")


def _pages_max(text: str) -> int | None:
    """The pages of a PDF, counted in each way in which one can be listed; None where some may be hidden."""
    if _bytes_max(text) > DOCUMENT_BYTES_MAX:
        return None
    data = _head(text, DOCUMENT_BYTES_MAX)
    if data is None or b"%PDF-" not in data[:1_024] or _OPAQUE.search(data):
        return None
    counted = max((int(count) for count in _COUNT.findall(data)), default=0)
    referred = sum(len(_REFERENCE.findall(kids)) for kids in _KIDS.findall(data))
    return max(counted, referred, len(_PAGE.findall(data))) or None
