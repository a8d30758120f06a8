import tomllib
from importlib.resources import files

import pytest

from spendfuse.pricing.caps import CapsTable, ModelCaps
from spendfuse.pricing.images import Pixels, Tiles
from spendfuse.pricing.sheet import Sheet


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    return Sheet.load()


@pytest.fixture(scope="module")
def table(sheet: Sheet) -> CapsTable:
    return CapsTable.load(sheet)


@pytest.mark.parametrize(
    ("provider", "model", "window", "output"),
    [
        ("openai", "gpt-4o", 128_000, 16_384),
        ("openai", "gpt-4o-2024-11-20", 128_000, 16_384),
        ("openai", "gpt-4o-2024-05-13", 128_000, 4_096),
        ("openai", "gpt-4.1-mini", 1_047_576, 32_768),
        ("openai", "o1-preview-2024-09-12", 128_000, 32_768),
        ("openai", "gpt-5", 400_000, 128_000),
        ("openai", "gpt-5-chat-latest", 128_000, 16_384),
        ("openai", "gpt-4-1106-preview", 128_000, 4_096),
        ("azure", "gpt-4o", 128_000, 16_384),
        ("anthropic", "claude-3-5-haiku-20241022", 200_000, 8_192),
        ("anthropic", "claude-opus-4-1-20250805", 200_000, 32_000),
        ("gemini", "gemini-2.5-pro", 1_048_576, 65_536),
    ],
)
def test_known_caps(table: CapsTable, provider: str, model: str, window: int, output: int) -> None:
    caps = table.caps_of(provider, model)
    assert (caps.context_window, caps.output_tokens_max) == (window, output)


def test_the_window_comes_from_the_sheet_where_we_have_no_entry(table: CapsTable, sheet: Sheet) -> None:
    listing = sheet.listing("openrouter", "openai/gpt-4o")
    assert listing is not None
    assert table.caps_of("openrouter", "openai/gpt-4o") == ModelCaps(context_window=listing.context_window)


def test_nothing_is_known_of_an_unknown_model(table: CapsTable) -> None:
    assert table.caps_of("openai", "gpt-4o-evil") == ModelCaps(cap_field="max_completion_tokens")
    assert table.caps_of("local", "gpt-4o") == ModelCaps()


def test_reasoning_and_images_are_told(table: CapsTable) -> None:
    assert table.caps_of("openai", "o3").reasons
    assert not table.caps_of("openai", "gpt-4o").reasons
    assert table.caps_of("openai", "gpt-4o").media.images == Tiles(85, 170)
    assert table.caps_of("anthropic", "claude-haiku-4-5").media.images == Pixels(1_600)


def test_every_entry_is_of_a_model_in_the_sheet_and_can_be_read(table: CapsTable, sheet: Sheet) -> None:
    entries = tomllib.loads((files("spendfuse.pricing") / "caps.toml").read_text(encoding="utf-8"))
    for provider, models in entries.items():
        for model, entry in models.items():
            assert entry.keys() <= {"window", "output", "reasons", "images", "audio", "page"}, model
            assert sheet.listing(provider, model) is not None, model
            caps = table.caps_of(provider, model)
            assert caps.context_window == entry["window"], model
            assert (caps.output_tokens_max or 0) <= entry["window"], model
