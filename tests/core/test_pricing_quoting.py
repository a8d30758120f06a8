import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendfuse.core.calls import Body, CacheWrite, Call, Content, Media, MediaKind, Operation
from spendfuse.core.prices import Price, Rates
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import Usage
from spendfuse.pricing.bounds import InputBound
from spendfuse.pricing.describe import describe
from spendfuse.pricing.quoting import Pricer, Quoted, WantedCap
from spendfuse.pricing.sheet import Sheet
from spendfuse.pricing.targets import Override, PricedTarget, Unpriced

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MP3 = Media(MediaKind.AUDIO, "audio/mp3", base64.b64encode(b"\0" * 3_000).decode())
PRICER = Pricer.load({})

# Tiers, cache writes of both lifetimes, audio both ways, hours of the day, service tiers, fees, no output.
TARGETS = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-5"),
    ("openai", "gpt-5.4"),
    ("openai", "gpt-audio"),
    ("openai", "gpt-5.6-luna"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-haiku-5-5"),
    ("google", "gemini-2.5-pro"),
    ("google", "gemini-2.5-flash"),
    ("deepseek", "deepseek-flash"),
    ("deepseek", "deepseek-v4-pro"),
    ("x-ai", "grok-4.20"),
    ("perplexity", "sonar-pro"),
    ("mistral", "mistral-large-latest"),
]


def target_of(provider: str, model: str, pricer: Pricer = PRICER) -> PricedTarget:
    target = pricer.target_prices(provider, model)
    assert isinstance(target, PricedTarget), target
    return target


def unpriced_of(provider: str, model: str, pricer: Pricer = PRICER) -> Unpriced:
    target = pricer.target_prices(provider, model)
    assert isinstance(target, Unpriced), target
    return target


def call_of(text_bytes: int = 1_000, *, media: tuple[Media, ...] = ()) -> Call:
    content = Content(text_bytes=text_bytes, texts=list, media=media)
    return Call(Operation.CHAT, "public", Body({}), content)


def quoted(call: Call, target: PricedTarget, at: datetime = NOW, *, overrun_percent: int = 100) -> Quoted:
    answer = PRICER.quote(call, target, counted=False, at=at, overrun_percent=overrun_percent)
    assert isinstance(answer, Quoted), answer
    return answer


def up_to(most: int) -> st.SearchStrategy[int]:
    """Often the most or nothing: there a quote is tight."""
    return st.sampled_from([0, most]) | st.integers(0, most)


@st.composite
def usages_within(draw: st.DrawFn, input_max: int, output_max: int, *, audio: bool, output_audio: bool) -> Usage:
    left, parts = input_max, dict[str, int]()
    kinds = ["text", "cache_read_tokens", "cache_write_tokens", "cache_write_long_tokens"]
    kinds += ["input_audio_tokens", "cache_read_audio_tokens"] if audio else []
    for kind in draw(st.permutations(kinds)):
        parts[kind] = draw(up_to(left))
        left -= parts[kind]
    input_tokens = sum(parts.values())
    del parts["text"]
    output = draw(up_to(output_max))
    spoken = draw(up_to(output)) if output_audio else 0
    return Usage(input_tokens, output, **parts, output_audio_tokens=spoken, reasoning_tokens=draw(up_to(output)))


@settings(max_examples=400)
@given(st.data())
def test_usage_within_the_bound_is_charged_within_the_quote(data: st.DataObject) -> None:
    """Invariant 10."""
    target = target_of(*data.draw(st.sampled_from(TARGETS)))
    at = NOW + timedelta(minutes=data.draw(st.integers(-2_000_000, 2_000_000)))
    has_audio = data.draw(st.booleans())
    speaks = data.draw(st.booleans()) and target.price(at).base.output_audio is not None
    tiers = sorted(target.price(at).service_tiers)
    call = replace(
        call_of(data.draw(st.integers(0, 2_000_000)), media=(MP3,) if has_audio else ()),
        choices=data.draw(st.integers(1, 8)),
        output_audio=speaks,
        service_tier=data.draw(st.sampled_from([None, "default", "auto", *tiers])),
    )
    answer = PRICER.quote(call, target, counted=False, at=at)
    if isinstance(answer, Deny):
        assert has_audio
        assert target.caps.context_window is None
        return
    cap = data.draw(st.integers(0, 100_000))
    most = answer.quote.at(cap)
    usage = data.draw(
        usages_within(most.input_tokens, most.output_tokens, audio=answer.bound.audio, output_audio=speaks)
    )
    billed_at = at + timedelta(minutes=data.draw(st.integers(0, 60)))
    assert PRICER.charge(target, usage, at=billed_at, service_tier=call.service_tier) <= most.cost


def test_a_quote_is_the_whole_bound_at_the_dearest_price() -> None:
    quote = quoted(replace(call_of(1_000), choices=3), target_of("openai", "gpt-4o")).quote
    assert (quote.input_tokens, quote.fixed_picos, quote.output_picos) == (1_000, 2_500_000_000, 10_000_000)
    assert quote.at(100).cost == 2_500_000 + 3 * 100 * 10_000


def test_a_quote_covers_cache_writes_and_the_tier_that_can_be_reached() -> None:
    haiku = target_of("anthropic", "claude-haiku-4-5")
    small = quoted(call_of(1_000), haiku)
    assert small.quote.fixed_picos == small.bound.tokens * 2_000_000
    pro = target_of("google", "gemini-2.5-pro")
    assert quoted(call_of(100_000), pro).quote.output_picos == 10_000_000
    assert quoted(call_of(300_000), pro).quote.output_picos == 15_000_000


def test_a_quote_covers_a_price_that_begins_while_the_call_runs() -> None:
    deepseek = target_of("deepseek", "deepseek-flash")
    assert quoted(call_of(), deepseek, NOW.replace(hour=0, minute=30)).quote.output_picos == 1_200_000
    assert quoted(call_of(), deepseek, NOW.replace(hour=12)).quote.output_picos == 600_000


def test_a_quote_grows_by_the_overrun_of_its_target() -> None:
    target = target_of("openai", "gpt-4o")
    once, grown = quoted(call_of(), target).quote, quoted(call_of(), target, overrun_percent=150).quote
    assert grown.fixed_picos == once.fixed_picos * 3 // 2
    assert grown.output_picos == once.output_picos * 3 // 2
    assert quoted(call_of(), target, overrun_percent=50).quote == once


def test_a_service_tier_is_quoted_at_its_price_or_refused() -> None:
    target = target_of("openai", "gpt-5")
    outputs = {
        tier: quoted(replace(call_of(), service_tier=tier), target).quote.output_picos
        for tier in (None, "default", "flex", "priority", "auto")
    }
    standard = 10_000_000
    assert outputs == {
        None: standard,
        "default": standard,
        "flex": standard // 2,
        "priority": 2 * standard,
        "auto": 2 * standard,
    }
    answer = PRICER.quote(replace(call_of(), service_tier="scale"), target, counted=False, at=NOW)
    assert isinstance(answer, Deny)
    assert (answer.code, answer.param) == (Code.MODEL_NOT_PRICED, "service_tier")


def test_a_charge_follows_the_service_tier_and_an_unknown_one_costs_the_dearest() -> None:
    target, usage = target_of("openai", "gpt-5"), Usage(0, 1_000)
    charges = [PRICER.charge(target, usage, at=NOW, service_tier=tier) for tier in (None, "flex", "priority", "new")]
    assert charges == [10_000_000, 5_000_000, 20_000_000, 20_000_000]


def test_audio_output_without_a_price_is_refused() -> None:
    speaking = replace(call_of(), output_audio=True)
    answer = PRICER.quote(speaking, target_of("openai", "gpt-4o"), counted=False, at=NOW)
    assert isinstance(answer, Deny)
    assert answer.code is Code.MODEL_NOT_PRICED
    assert quoted(speaking, target_of("openai", "gpt-audio")).quote.output_picos == 64_000_000


def test_an_embedding_model_cannot_be_asked_to_answer() -> None:
    target = target_of("openai", "text-embedding-3-small")
    answer = PRICER.quote(call_of(), target, counted=False, at=NOW)
    assert isinstance(answer, Deny)
    assert answer.code is Code.MODEL_NOT_PRICED
    embedding = replace(call_of(), operation=Operation.EMBEDDINGS, has_output=False)
    quote = quoted(embedding, target).quote
    assert (quote.fixed_picos, quote.output_picos) == (1_000 * 20_000, 0)


def test_media_at_a_model_of_unknown_window_is_refused() -> None:
    pricer = Pricer.load({"local": {"*": Override(price=Price(Rates(1, 1)))}})
    call = call_of(media=(MP3,))
    answer = pricer.quote(call, target_of("local", "m", pricer), counted=False, at=NOW)
    assert isinstance(answer, Deny)
    assert (answer.code, answer.param) == (Code.INVALID_REQUEST, "messages")


@pytest.mark.parametrize(
    ("cap", "model", "bound", "wanted"),
    [
        (None, "gpt-4o", 1_000, WantedCap(16_384)),
        (100, "gpt-4o", 1_000, WantedCap(100)),
        (20_000, "gpt-4o", 1_000, WantedCap(16_384, lowered=True)),
        (16_384, "gpt-4o", 1_000, WantedCap(16_384)),
        (None, "gpt-4o", 120_000, WantedCap(8_000)),
        (None, "gpt-4o", 128_000, WantedCap(4_096)),
        (100, "gpt-4o", 128_000, WantedCap(100)),
        (None, "gpt-6-sol", 1_000, WantedCap(4_096)),
        (50_000, "gpt-6-sol", 1_000, WantedCap(50_000)),
    ],
)
def test_the_wanted_cap(cap: int | None, model: str, bound: int, wanted: WantedCap) -> None:
    call = replace(call_of(), cap=cap)
    assert PRICER.cap_for(call, target_of("openai", model), bound=InputBound(bound)) == wanted


def test_a_call_without_output_has_no_cap() -> None:
    call = replace(call_of(), has_output=False)
    assert PRICER.cap_for(call, target_of("openai", "text-embedding-3-small"), bound=InputBound(1)) == WantedCap(0)


FREE, PAID = Price(Rates(0, 0)), Price(Rates(input=7, output=9))


def test_config_beats_the_sheet_and_the_models_own_entry_beats_the_general_one() -> None:
    overrides = {
        "openai": {"gpt-4o": Override(price=PAID, context_window=5_000)},
        "local": {"*": Override(price=FREE, context_window=99), "big": Override(price=PAID, output_tokens_max=7)},
    }
    pricer = Pricer.load(overrides)
    gpt, big, any_model = (
        target_of(*name, pricer) for name in (("openai", "gpt-4o"), ("local", "big"), ("local", "x"))
    )
    assert (gpt.price(NOW), gpt.source, gpt.caps.context_window, gpt.caps.output_tokens_max) == (
        PAID,
        "config",
        5_000,
        16_384,
    )
    assert (big.price(NOW), big.caps.context_window, big.caps.output_tokens_max) == (PAID, 99, 7)
    assert any_model.is_free
    assert not big.is_free
    assert target_of("openai", "gpt-4o-mini", pricer).price(NOW) != PAID


def test_what_has_no_price_says_why_and_what_to_do() -> None:
    assert "no price of it is known" in unpriced_of("openai", "gpt-4o-evil").message
    assert "audio" in unpriced_of("openai", "gpt-4o-audio-preview").message
    assert "providers.deepseek.prices" in unpriced_of("deepseek", "deepseek-chat").message


def test_a_zero_in_the_data_has_to_be_allowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sheet")
    (folder / "sheet.json").write_text(
        '{"source": "x", "snapshot_date": "2026-11-10", "sha256": "0", "fallbacks": {}}', encoding="utf-8"
    )
    (folder / "shop.jsonl").write_text(
        '{"model": "gift", "match": {"equals": "gift"}, "prices": [{"input": 0, "output": 0}]}\n', encoding="utf-8"
    )
    sheet = Sheet(folder)
    table = PRICER._caps  # pyright: ignore[reportPrivateUsage]
    assert "has to be allowed" in unpriced_of("shop", "gift", Pricer(sheet, table, {})).message
    allowed = Pricer(sheet, table, {"shop": {"gift": Override(allow_zero=True)}})
    assert target_of("shop", "gift", allowed).is_free


def test_visible_output_is_counted_exactly_or_bounded_from_both_sides() -> None:
    text = "The quick brown fox jumps over the lazy dog."
    held, foreign = target_of("openai", "gpt-4o"), target_of("anthropic", "claude-haiku-4-5")
    assert PRICER.count_at_least(held, text) == 10
    assert PRICER.count_at_least(foreign, text) == 5
    assert PRICER.count_at_most(held, text) == 10
    assert PRICER.count_at_most(foreign, text) == len(text)


def test_a_description_has_every_rate_in_force() -> None:
    rows = dict(describe(target_of("anthropic", "claude-sonnet-4-5"), NOW))
    assert rows["input"] == "$3.00 per million tokens"
    assert rows["above 200,000 input tokens: output"] == "$22.50 per million tokens"
    assert rows["cache write long"] == "$6.00 per million tokens"
    assert rows["context window"] == "200,000 tokens"
    assert rows["prices from"].startswith("genai-prices")
    assert dict(describe(target_of("openai", "o3"), NOW))["flex: input"] == "$1.00 per million tokens"
    assert dict(describe(target_of("openai", "o3"), NOW))["since"] == "2026-10-12"
    assert (
        dict(describe(target_of("deepseek", "deepseek-flash"), NOW.replace(hour=2)))["daily, UTC"] == "01:00 to 04:00"
    )
    assert dict(describe(target_of("perplexity", "sonar"), NOW))["each call"] == "$0.012"
    assert "not priced" in dict(describe(unpriced_of("openai", "nope"), NOW))


def test_what_a_call_does_not_ask_to_be_kept_is_not_quoted_as_written() -> None:
    sonnet = target_of("anthropic", "claude-sonnet-4-5")
    fixed = {}
    for kept in CacheWrite:
        one = PRICER.quote(call_of(), sonnet, counted=False, at=NOW, cache_write=kept)
        assert isinstance(one, Quoted)
        fixed[kept] = one.quote.fixed_picos / one.quote.input_tokens
    assert fixed == {CacheWrite.NONE: 3_000_000, CacheWrite.SHORT: 3_750_000, CacheWrite.LONG: 6_000_000}


@given(kept=st.sampled_from(CacheWrite), input_tokens=st.integers(0, 5_000), share=st.integers(0, 100))
def test_a_write_of_the_lifetime_that_was_asked_for_is_within_the_quote(
    kept: CacheWrite, input_tokens: int, share: int
) -> None:
    sonnet = target_of("anthropic", "claude-sonnet-4-5")
    one = PRICER.quote(call_of(5_000), sonnet, counted=False, at=NOW, cache_write=kept)
    assert isinstance(one, Quoted)
    written = input_tokens * share // 100
    usage = Usage(
        input_tokens,
        100,
        cache_write_tokens=written if kept is CacheWrite.SHORT else 0,
        cache_write_long_tokens=written if kept is CacheWrite.LONG else 0,
        cache_read_tokens=(input_tokens - written) // 2,
    )
    assert PRICER.charge(sonnet, usage, at=NOW, service_tier=None) <= one.quote.at(100).cost


@pytest.mark.parametrize(("count", "bound"), [(100, 135), (0, 32), (10_000, 1_128)])
def test_a_providers_own_count_with_its_margin_replaces_bytes_where_it_is_lower(count: int, bound: int) -> None:
    target = target_of("anthropic", "claude-sonnet-4-5")
    one = PRICER.quote(call_of(1_000), target, counted=False, at=NOW, provider_count=count)
    assert isinstance(one, Quoted)
    assert one.bound == InputBound(bound, counted=True)


def test_a_count_of_tokens_is_free() -> None:
    call = replace(call_of(1_000), operation=Operation.COUNT_TOKENS, has_output=False)
    one = PRICER.quote(call, target_of("anthropic", "claude-sonnet-4-5"), counted=False, at=NOW)
    assert isinstance(one, Quoted)
    assert one.quote.at(0).cost == one.quote.input_tokens == 0


def test_a_second_provider_of_a_vendor_has_its_prices_and_bounds() -> None:
    pricer = Pricer.load({}, {"openai-eu": "openai"})
    first, second = target_of("openai", "gpt-4o", pricer), target_of("openai-eu", "gpt-4o", pricer)
    assert (second.prices, second.caps.context_window, second.can_count) == (first.prices, 128_000, True)
    assert second.provider == "openai-eu"
