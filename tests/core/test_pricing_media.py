import base64
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spendfuse.core.calls import Media, MediaKind
from spendfuse.pricing.images import Crops, Flat, ImageRule, Patches, Pixels, Size, Tiles, image_rule, image_size
from spendfuse.pricing.media import MediaRules, media_bound
from spendfuse.simulator import images as billed

TILES = Tiles(85, 170)
sides = st.integers(1, 6_000)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_bytes(kind: str, size: Size, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, **options)
    return buffer.getvalue()


def image(data: bytes, detail: str | None = None) -> Media:
    return Media(MediaKind.IMAGE, "image/any", encoded(data), detail)


FORMATS = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {}), ("WEBP", {})]
FORMATS += [("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0" + b"x" * 40})]


@pytest.mark.parametrize(("kind", "options"), FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (3, 2_000)])
def test_the_size_is_read_from_every_format(kind: str, options: dict[str, object], size: Size) -> None:
    assert image_size(image_bytes(kind, size, **options)) == size


def test_the_size_of_a_photograph_lies_behind_its_metadata() -> None:
    photograph = image_bytes("JPEG", (4_000, 3_000), exif=b"Exif\0\0" + b"x" * 60_000, icc_profile=b"y" * 100_000)
    assert image_size(photograph) == (4_000, 3_000)
    rules = MediaRules(images=TILES)
    assert media_bound(image(photograph), rules) == TILES.bound((4_000, 3_000), None)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00", b"RIFF", b"GIF89a\x00\x00\x00\x00", b"BM" * 50]
)
def test_what_has_no_size_costs_the_dearest(data: bytes) -> None:
    assert image_size(data) is None
    assert media_bound(image(data), MediaRules(images=TILES)) == 85 + 8 * 170


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8X", b"\x89PNG\r\n\x1a\n"]),
)
def test_no_bytes_break_the_reading(data: bytes, start: bytes) -> None:
    size = image_size(start + data)
    assert size is None or min(size) > 0


def test_text_that_is_not_strictly_base64_costs_the_dearest() -> None:
    media = Media(MediaKind.IMAGE, "image/png", "!" + encoded(image_bytes("PNG", (1, 1))))
    assert media_bound(media, MediaRules(images=TILES)) == 85 + 8 * 170


@pytest.mark.parametrize(
    ("rule", "size", "detail", "tokens"),
    [
        (TILES, (1_024, 1_024), "high", 765),
        (TILES, (2_048, 4_096), "high", 1_105),
        (TILES, (4_096, 8_192), "low", 85),
        (TILES, (512, 512), None, 255),
        (TILES, (513, 512), "auto", 425),
        (Tiles(2_833, 5_667), (512, 512), None, 8_500),
        (Patches(162), (1_024, 1_024), "high", 1_659),
        (Patches(162), (1_800, 2_400), "high", 2_489),
        (Patches(246), (32, 32), "low", 630),
        (Pixels(1_600), (1_000, 1_000), None, 1_468),
        (Pixels(1_600), (9_000, 9_000), None, 1_760),
        (Crops(258), (384, 384), None, 258),
        (Crops(258), (960, 540), None, 6 * 258),
        (Flat(1_120), (1, 1), None, 1_120),
    ],
)
def test_an_image_costs_what_its_rule_says(rule: ImageRule, size: Size, detail: str | None, tokens: int) -> None:
    assert rule.bound(size, detail) == tokens


def test_an_unknown_detail_has_no_bound() -> None:
    assert TILES.bound((1, 1), "original") is None
    assert Patches(162).bound((1, 1), "original") is None
    assert Crops(258).bound(None, None) is None


@given(sides, sides, st.sampled_from(["auto", "low", "high"]), st.sampled_from([(85, 170), (2_833, 5_667), (75, 150)]))
def test_a_tiled_image_is_never_billed_above_its_bound(width: int, height: int, detail: str, rule: Size) -> None:
    bill = billed.Tiles(*rule).tokens((width, height), detail)  # type: ignore[arg-type]
    bound, dearest = (Tiles(*rule).bound(size, detail) for size in ((width, height), None))
    assert bound is not None
    assert dearest is not None
    assert bill <= bound <= dearest


@given(sides, sides, st.sampled_from(["auto", "low", "high"]), st.sampled_from([162, 172, 246]))
def test_a_patched_image_is_never_billed_above_its_bound(width: int, height: int, detail: str, percent: int) -> None:
    bill = billed.Patches(percent).tokens((width, height), detail)  # type: ignore[arg-type]
    bound, dearest = (Patches(percent).bound(size, detail) for size in ((width, height), None))
    assert bound is not None
    assert dearest is not None
    assert bill <= bound <= dearest


def test_rules_are_read_from_their_names() -> None:
    assert image_rule("tiles 85 170") == TILES
    assert image_rule("patches 162") == Patches(162)
    for text in ("", "tiles", "tiles 1", "squares 5", "flat x"):
        with pytest.raises(ValueError):
            image_rule(text)


def wav(*, seconds: int, rate: int = 8_000, channels: int = 1, bits: int = 16, form: int = 1, lie: int = 1) -> str:
    block = channels * bits // 8
    data = b"\0" * (seconds * rate * block)
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36, b"WAVE", b"fmt ", 16, form, channels, rate, rate * block * lie, block, bits
    )
    return encoded(head + struct.pack("<4sI", b"data", len(data)) + data)


AUDIO = MediaRules(audio_tokens_per_s=10)


@pytest.mark.parametrize("seconds", [1, 7])
@pytest.mark.parametrize("shape", [{}, {"channels": 2}, {"rate": 24_000}, {"bits": 8}, {"lie": 50}])
def test_a_wav_is_bounded_by_its_duration(seconds: int, shape: dict[str, int]) -> None:
    bound = media_bound(Media(MediaKind.AUDIO, "audio/wav", wav(seconds=seconds, **shape)), AUDIO)
    assert bound is not None
    assert 10 * seconds <= bound <= 10 * (seconds + 1)


def test_an_mp3_is_bounded_by_the_lowest_bit_rate() -> None:
    assert media_bound(Media(MediaKind.AUDIO, "audio/mpeg", encoded(b"\0" * 3_000)), AUDIO) == 30
    assert media_bound(Media(MediaKind.AUDIO, "audio/mp3", encoded(b"\0" * 3_001)), AUDIO) == 40


@pytest.mark.parametrize(
    "media",
    [
        Media(MediaKind.AUDIO, "audio/flac", encoded(b"fLaC")),
        Media(MediaKind.AUDIO, "audio/wav", encoded(b"RIFF....WAVE")),
        Media(MediaKind.AUDIO, "audio/wav", wav(seconds=1, form=0x55)),
        Media(MediaKind.AUDIO, "audio/wav", wav(seconds=1, lie=0)),
        Media(MediaKind.AUDIO, "audio/wav", "not base64!"),
        Media(MediaKind.OTHER, "video/mp4", encoded(b"x")),
        Media(MediaKind.DOCUMENT, "application/pdf", encoded(b"%PDF-1.4 /Type /Page")),
        Media(MediaKind.IMAGE, "image/png", encoded(b"x")),
    ],
)
def test_what_no_rule_covers_has_no_bound_of_its_own(media: Media) -> None:
    assert media_bound(media, AUDIO) is None


PDF = MediaRules(document_page_tokens=258)
PAGE = b"<</Type /Page/Parent 1 0 R>>\n"


@pytest.mark.parametrize(
    ("body", "pages"),
    [
        (PAGE, 1),
        (PAGE * 3, 3),
        (PAGE + b"<</Type/Pages/Count 7/Kids [2 0 R]>>", 7),
        (PAGE + b"<</Type/Pages/Count 1/Kids [2 0 R 2 0 R 2 0 R]>>", 3),
        (PAGE.replace(b"/Type /Page", b"/Type/Page"), 1),
    ],
)
def test_a_document_is_bounded_by_its_pages(body: bytes, pages: int) -> None:
    assert media_bound(Media(MediaKind.DOCUMENT, "application/pdf", encoded(b"%PDF-1.4\n" + body)), PDF) == 258 * pages


@pytest.mark.parametrize(
    "data",
    [
        b"no document" + PAGE,
        b"%PDF-1.5\n/ObjStm" + PAGE,
        b"%PDF-1.4 /Encrypt" + PAGE,
        b"%PDF-1.4 /P#61ge" + PAGE,
        b"%PDF-1.4",
    ],
)
def test_a_document_that_may_hide_pages_has_no_bound(data: bytes) -> None:
    assert media_bound(Media(MediaKind.DOCUMENT, "application/pdf", encoded(data)), PDF) is None
