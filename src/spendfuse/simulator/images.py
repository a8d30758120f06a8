"""What an image costs in tokens: its size, read from its header, under the vendor's published rules."""

import math
from dataclasses import dataclass
from typing import Literal

Detail = Literal["auto", "low", "high"]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A base and so much per tile of 512 pixels, after fitting into 2048 and the shorter side into 768."""

    base_tokens: int
    tile_tokens: int

    def tokens(self, size: Size, detail: Detail) -> int:
        if detail == "low":
            return self.base_tokens
        width, height = _shrunk(size, longest=2048, shortest=768)
        return self.base_tokens + self.tile_tokens * math.ceil(width / 512) * math.ceil(height / 512)


@dataclass(frozen=True, slots=True)
class Patches:
    """So much per patch of 32 pixels, at most 1,536 patches."""

    percent: int

    PATCHES_MAX = 1_536
    PATCHES_LOW = 256

    def tokens(self, size: Size, detail: Detail) -> int:
        patches = self.PATCHES_LOW if detail == "low" else self._patches(size)
        return -(-patches * self.percent // 100)

    def _patches(self, size: Size) -> int:
        width, height = size
        patches = math.ceil(width / 32) * math.ceil(height / 32)
        if patches <= self.PATCHES_MAX:
            return patches
        scale = math.sqrt(32 * 32 * self.PATCHES_MAX / (width * height))
        across, down = width * scale / 32, height * scale / 32
        # The vendor scales once more so that one side is a whole number of patches.
        fit = min(max(math.floor(side), 1) / side for side in (across, down))
        return min(math.ceil(round(across * fit, 6)) * math.ceil(round(down * fit, 6)), self.PATCHES_MAX)


ImageRule = Tiles | Patches


def _shrunk(size: Size, *, longest: int, shortest: int) -> tuple[float, float]:
    width, height = size
    scale = min(1.0, longest / max(width, height))
    scale = min(scale, shortest / min(width, height))
    # Rounding keeps 1023.9999999 from costing a tile that arithmetic without error would not.
    return round(width * scale, 6), round(height * scale, 6)


def image_size(data: bytes) -> Size | None:
    """Width and height in pixels of a PNG, GIF, JPEG or WebP; `None` if it is none of them or says zero."""
    size = _png_size(data) or _gif_size(data) or _webp_size(data) or _jpeg_size(data)
    return size if size is not None and min(size) > 0 else None


def _png_size(data: bytes) -> Size | None:
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _gif_size(data: bytes) -> Size | None:
    if len(data) < 10 or not data.startswith((b"GIF87a", b"GIF89a")):
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _webp_size(data: bytes) -> Size | None:
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
        case _:
            return None


def _jpeg_size(data: bytes) -> Size | None:
    """The size in the first start-of-frame segment."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # Markers may be padded.
            at += 1
            continue
        # C4, C8 and CC lie among the frame markers but are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
