"""What an image costs at most: the vendors' published rules over the size in its header."""

import re
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height in pixels."""

_LOW = "low"
_KNOWN_DETAILS = frozenset({None, "auto", "high", _LOW})


@dataclass(frozen=True, slots=True)
class Tiles:
    """OpenAI: a base and so much a tile of 512 pixels, after fitting into 2,048 and the shorter side into 768."""

    base_tokens: int
    tile_tokens: int

    TILES_MAX = 8

    def bound(self, size: Size | None, detail: str | None) -> int | None:
        """The most tokens; None for a detail that the rule does not know. Without a size: the dearest one's."""
        if detail not in _KNOWN_DETAILS:
            return None
        if detail == _LOW:
            return self.base_tokens
        tiles = self.TILES_MAX if size is None else self._tiles(*size)
        return self.base_tokens + self.tile_tokens * tiles

    def _tiles(self, width: int, height: int) -> int:
        """Exact in integers: the scale is the smallest of 1, 2048/longest and 768/shortest, as numerator/divisor."""
        longest, shortest = max(width, height), min(width, height)
        numerator, divisor = 1, 1
        if longest > 2_048:
            numerator, divisor = 2_048, longest
        if shortest * numerator > 768 * divisor:
            numerator, divisor = 768, shortest
        return _ceil(width * numerator, 512 * divisor) * _ceil(height * numerator, 512 * divisor)


@dataclass(frozen=True, slots=True)
class Patches:
    """OpenAI: so many hundredths of a token for each patch of 32 pixels, at most 1,536 patches."""

    percent: int

    PATCHES_MAX = 1_536
    PATCHES_LOW = 256

    def bound(self, size: Size | None, detail: str | None) -> int | None:
        """As `Tiles.bound`."""
        if detail not in _KNOWN_DETAILS:
            return None
        patches = self.PATCHES_MAX
        if detail == _LOW:
            patches = self.PATCHES_LOW
        elif size is not None:
            patches = min(_ceil(size[0], 32) * _ceil(size[1], 32), self.PATCHES_MAX)
        return _ceil(patches * self.percent, 100)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Anthropic: about a token for 750 pixels, at most `tokens_max`. Published as approximate: a tenth is added."""

    tokens_max: int

    def bound(self, size: Size | None, detail: str | None) -> int | None:
        """As `Tiles.bound`; there is no detail to choose."""
        tokens = self.tokens_max if size is None else min(_ceil(size[0] * size[1], 750), self.tokens_max)
        return _ceil(tokens * 11, 10)


@dataclass(frozen=True, slots=True)
class Crops:
    """Gemini 2: so much for an image of at most 384 pixels a side, else for each crop of it.

    Crops are squares of two thirds of the shorter side, of 256 to 768 pixels.
    """

    crop_tokens: int

    def bound(self, size: Size | None, detail: str | None) -> int | None:
        """As `Tiles.bound`; None without a size, as there is no largest image."""
        if size is None:
            return None
        if max(size) <= 384:
            return self.crop_tokens
        side = min(max(min(size) * 2 // 3, 256), 768)
        return self.crop_tokens * _ceil(size[0], side) * _ceil(size[1], side)


@dataclass(frozen=True, slots=True)
class Flat:
    """Gemini 3: the same for every image."""

    tokens: int

    def bound(self, size: Size | None, detail: str | None) -> int | None:
        """As `Tiles.bound`."""
        return self.tokens


ImageRule = Tiles | Patches | Pixels | Crops | Flat

_RULES: dict[str, type[ImageRule]] = {
    "tiles": Tiles,
    "patches": Patches,
    "pixels": Pixels,
    "crops": Crops,
    "flat": Flat,
}


def image_rule(text: str) -> ImageRule:
    """Read a rule: its name and its numbers, `tiles 85 170`.

    Raises:
        ValueError: no such rule.
    """
    name, *numbers = text.split()
    try:
        return _RULES[name](*map(int, numbers))
    except (KeyError, TypeError) as error:
        raise ValueError(f"unknown image rule {text!r}") from error


def image_size(data: bytes) -> Size | None:
    """The size in the header of a PNG, GIF, WebP or JPEG; None when it is none of them, says zero or is cut short."""
    size = _png_size(data) or _gif_size(data) or _webp_size(data) or _jpeg_size(data)
    return size if size is not None and min(size) > 0 else None


def _ceil(numerator: int, divisor: int) -> int:
    return -(-numerator // divisor)


def _png_size(data: bytes) -> Size | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif_size(data: bytes) -> Size | None:
    if data[:6] not in (b"GIF87a", b"GIF89a") or len(data) < 10:
        return None
    return _little(data, 6, 2), _little(data, 8, 2)


def _webp_size(data: bytes) -> Size | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
        case b"VP8L":
            bits = _little(data, 21, 4)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
        case _:
            return None


def _little(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "little")


_SEGMENT = re.compile(rb"\xff+([^\xff])", re.DOTALL)
# C4, C8 and CC lie among the start-of-frame markers but are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_size(data: bytes) -> Size | None:
    """The size in the first start-of-frame segment; thumbnails lie inside other segments and are skipped."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while (segment := _SEGMENT.match(data, at)) is not None:
        body = segment.end()
        if body + 7 > len(data):
            return None
        if data[body - 1] in _FRAMES:
            return int.from_bytes(data[body + 5 : body + 7], "big"), int.from_bytes(data[body + 3 : body + 5], "big")
        at = body + max(int.from_bytes(data[body : body + 2], "big"), 2)
    return None
