import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest
from genai_prices.data import providers
from genai_prices.types import Usage as SourceUsage

from spendfuse.core.money import NANOS_PER_USD, PICOS_PER_NANO
from spendfuse.core.usage import Usage
from spendfuse.pricing.compile import render
from spendfuse.pricing.sheet import REMEMBERED_NAMES_MAX, Sheet, SheetDamaged

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PICOS_PER_TOKEN_OF_CENT_PER_MILLION = 10_000


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    return Sheet.load()


def test_the_checked_in_sheet_is_what_the_pinned_source_compiles_to() -> None:
    folder = files("spendfuse.pricing") / "data" / "prices"
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == render()


@pytest.mark.parametrize(
    ("provider", "model", "input_cents", "output_cents"),
    [
        ("openai", "gpt-4o", 250, 1_000),
        ("openai", "gpt-4o-mini", 15, 60),
        ("openai", "gpt-4o-mini-2024-07-18", 15, 60),
        ("openai", "gpt-4.1", 200, 800),
        ("openai", "gpt-5", 125, 1_000),
        ("openai", "o3", 200, 800),
        ("openai", "gpt-3.5-turbo", 50, 150),
        ("openai", "text-embedding-3-small", 2, 0),
        ("azure", "gpt-4o", 250, 1_000),
        ("anthropic", "claude-haiku-4-5", 100, 500),
        ("anthropic", "claude-opus-4-1", 1_500, 7_500),
        ("anthropic", "claude-3-5-haiku-20241022", 80, 400),
        ("anthropic", "claude-sonnet-4-20250514", 300, 1_500),
        ("anthropic", "claude-sonnet-4-5-20250929", 300, 1_500),
        ("gemini", "gemini-2.5-flash", 30, 250),
        ("google", "gemini-2.5-pro", 125, 1_000),
    ],
)
def test_known_list_prices(sheet: Sheet, provider: str, model: str, input_cents: int, output_cents: int) -> None:
    price = sheet.price(provider, model, NOW)
    assert price is not None
    assert price.base.input == input_cents * PICOS_PER_TOKEN_OF_CENT_PER_MILLION
    assert price.base.output == output_cents * PICOS_PER_TOKEN_OF_CENT_PER_MILLION


def test_history_is_kept(sheet: Sheet) -> None:
    cut = datetime(2025, 6, 10, tzinfo=UTC)
    before, after = sheet.price("openai", "o3", cut - timedelta(seconds=1)), sheet.price("openai", "o3", cut)
    assert before is not None
    assert after is not None
    assert (before.base.input, before.base.output) == (10_000_000, 40_000_000)
    assert (after.base.input, after.base.output) == (2_000_000, 8_000_000)


def test_long_context_doubles_the_whole_call(sheet: Sheet) -> None:
    price = sheet.price("google", "gemini-2.5-pro", NOW)
    assert price is not None
    assert price.charge(Usage(200_000, 0)) == 200_000 * 1_250
    assert price.charge(Usage(200_001, 0)) == 200_001 * 2_500


def test_a_peak_price_holds_in_its_hours(sheet: Sheet) -> None:
    inputs = []
    for hour in (0, 1, 3, 4, 6, 10):
        price = sheet.price("deepseek", "deepseek-flash", NOW.replace(hour=hour))
        assert price is not None
        inputs.append(price.base.input)
    assert inputs == [150_000, 300_000, 300_000, 150_000, 300_000, 150_000]


def test_service_tiers_and_cache_writes_have_their_prices(sheet: Sheet) -> None:
    gpt, claude = sheet.price("openai", "gpt-5", NOW), sheet.price("anthropic", "claude-haiku-4-5", NOW)
    assert gpt is not None
    assert claude is not None
    assert [gpt.service_tiers[name].base.input for name in ("flex", "priority")] == [625_000, 2_500_000]
    assert (claude.base.cache_read, claude.base.cache_write, claude.base.cache_write_long) == (
        100_000,
        1_250_000,
        2_000_000,
    )


def test_a_fee_for_each_request_is_part_of_the_price(sheet: Sheet) -> None:
    price = sheet.price("perplexity", "sonar", NOW)
    assert price is not None
    assert price.charge(Usage(0, 0)) == 12_000_000


def test_every_charge_is_that_of_the_source_but_for_rounding(sheet: Sheet) -> None:
    compared = 0
    for provider in providers:
        for model in provider.models:
            listing = sheet.listing(provider.id, model.id)
            if listing is None or listing.unpriced or listing.model != model.id:
                continue
            price = sheet.price(provider.id, model.id, NOW)
            assert price is not None
            for count in (1_000, 150_000, 600_000):
                usage = Usage(count, 700, count // 2, count // 10, count // 20)
                theirs = SourceUsage(
                    input_tokens=count,
                    output_tokens=700,
                    cache_read_tokens=count // 2,
                    cache_write_tokens=count // 10 + count // 20,
                    cache_write_1h_tokens=count // 20,
                )
                wanted = model.calc_price(theirs, provider, genai_request_timestamp=NOW).total_price * NANOS_PER_USD
                # Fractions of a pico-dollar are rounded up for each kind of token.
                assert 0 <= price.charge(usage) - wanted <= 1 + usage.tokens // PICOS_PER_NANO, (provider.id, model.id)
                compared += 1
    assert compared > 3 * 1_900


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-sonnet-4-5-evil"),
        ("anthropic", "claude-sonnet-4-5-evil-20250929"),
        ("openai", "ft:gpt-4o-mini:acme::x"),
        ("openai", "gpt-4o-2099-01-01"),
        ("openai", "gpt-4o-"),
        ("openai", ""),
        ("nobody", "gpt-4o"),
        ("../openai", "gpt-4o"),
    ],
)
def test_a_name_that_is_not_known_has_no_listing(sheet: Sheet, provider: str, model: str) -> None:
    assert sheet.listing(provider, model) is None
    assert sheet.price(provider, model, NOW) is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-audio-preview"),
        ("openai", "gpt-4o-mini-audio-preview-2024-12-17"),
        ("openai", "gpt-4o-mini-search-preview"),
        ("openai", "gpt-image-1"),
        ("openai", "whisper-1"),
        ("deepseek", "deepseek-chat"),
        ("google", "gemini-2.5-flash-image"),
        ("perplexity", "sonar-deep-research"),
    ],
)
def test_a_model_whose_bill_could_not_be_followed_is_unpriced(sheet: Sheet, provider: str, model: str) -> None:
    listing = sheet.listing(provider, model)
    assert listing is not None
    assert listing.unpriced
    assert not listing.prices


def test_an_embedding_has_a_price_of_its_input_only(sheet: Sheet) -> None:
    embedding, chat = sheet.listing("openai", "text-embedding-3-small"), sheet.listing("openai", "gpt-4o")
    assert embedding is not None
    assert chat is not None
    assert embedding.input_only
    assert not chat.input_only


def test_invented_names_do_not_grow_the_memory() -> None:
    sheet = Sheet.load()
    for number in range(2 * REMEMBERED_NAMES_MAX):
        sheet.listing("openai", f"invented-{number}")
    assert sheet.listing.cache_info().currsize <= REMEMBERED_NAMES_MAX


def test_the_sheet_says_which_it_is(sheet: Sheet) -> None:
    assert sheet.about.source.startswith("genai-prices ")
    assert len(sheet.about.sha256) == 64
    assert sheet.about.snapshot_date <= NOW.date()


def test_loading_does_not_need_the_source() -> None:
    program = (
        "import sys; from spendfuse.pricing.quoting import Pricer;"
        "Pricer.load({}).target_prices('openai', 'gpt-4o'); sys.exit('genai_prices' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_damaged_sheet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sheet.json").write_text(
        '{"source": "x", "snapshot_date": "2026-11-10", "sha256": "0", "fallbacks": {}}', encoding="utf-8"
    )
    (tmp_path / "broken.jsonl").write_text("{no json\n", encoding="utf-8")
    (tmp_path / "odd.jsonl").write_text(
        '{"model": "m", "match": {"sounds_like": "m"}, "prices": []}\n', encoding="utf-8"
    )
    sheet = Sheet(tmp_path)
    with pytest.raises(SheetDamaged):
        sheet.listing("broken", "m")
    with pytest.raises(SheetDamaged):
        sheet.listing("odd", "m")
