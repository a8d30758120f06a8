from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendfuse.pricing import tokens

SHORT_SLICE = 60
# Whatever the tokenizer treats apart: letters of both cases, marks, digits, contractions, line ends, runs of spaces.
SNIPPETS = [
    "don't ",
    "word",
    "Word",
    "123",
    "4",
    "\n\n  ",
    "\r\n",
    "x",
    "中文。",
    " ",
    "   ",
    "?!",
    "/\n",
    "_a",
    "e\u0301",
]
texts = st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=3), max_size=120).map("".join)


@pytest.fixture(scope="module", autouse=True)
def vocabulary() -> None:
    """Loaded before the first example, whose deadline it would break."""
    tokens.encoding()


@pytest.mark.parametrize(
    ("text", "expected"), [("", 0), ("hello world", 2), ("<|endoftext|>", 7), ("😀", 1), ("\ud800", 1)]
)
def test_known_texts_have_their_tokens(text: str, expected: int) -> None:
    assert tokens.count(text) == expected


@given(texts)
def test_tokens_are_at_most_the_bytes(text: str) -> None:
    assert tokens.count_at_least(text) <= tokens.count(text) <= len(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=300)
@given(text=texts)
def test_cutting_never_lowers_the_upper_nor_raises_the_lower_count(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "SLICE_CHARACTERS", SHORT_SLICE)
        patch.setattr(tokens, "_CUT_WINDOW_CHARACTERS", SHORT_SLICE - 10)
        whole = len(tokens.encoding().encode_ordinary(text))
        assert tokens.count_at_least(text) <= whole <= tokens.count(text)


@given(st.lists(st.sampled_from(["lorem ", "ipsum, ", "don't ", "4711\n", "dolor. "]), min_size=40, max_size=120))
def test_texts_with_safe_cuts_are_counted_exactly(words: list[str]) -> None:
    text = "".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "SLICE_CHARACTERS", SHORT_SLICE)
        patch.setattr(tokens, "_CUT_WINDOW_CHARACTERS", SHORT_SLICE - 10)
        assert tokens.count(text) == tokens.count_at_least(text) == len(tokens.encoding().encode_ordinary(text))


@pytest.mark.parametrize("character", [" ", "a", "中", "\n", "<"])
def test_a_megabyte_without_a_place_to_cut_is_bounded_by_its_bytes(character: str) -> None:
    text = character * 1_000_000
    assert tokens.count_at_least(text) <= tokens.count(text) <= len(text.encode())
    assert tokens.count_at_least(text) >= len(text) // 128


def test_the_vocabulary_is_built_once_for_all_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        built = set(map(id, pool.map(lambda _: tokens.encoding(), range(32))))
    assert len(built) == 1


@pytest.mark.parametrize(
    ("provider", "model", "held"),
    [
        ("openai", "gpt-4o", True),
        ("openai", "gpt-4o-mini-2024-07-18", True),
        ("openai", "gpt-4.1-nano", True),
        ("openai", "gpt-5", True),
        ("openai", "gpt-5.4-mini", True),
        ("openai", "o1", True),
        ("openai", "o3-mini", True),
        ("openai", "o4-mini", True),
        ("openai", "chatgpt-4o-latest", True),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", True),
        ("openai", "gpt-4", False),
        ("openai", "gpt-4-turbo", False),
        ("openai", "gpt-4-0613", False),
        ("openai", "gpt-3.5-turbo", False),
        ("openai", "text-embedding-3-small", False),
        ("openai", "gpt-4omni", False),
        ("openai", "o11", False),
        ("azure", "gpt-4o", False),
        ("anthropic", "claude-sonnet-4-5", False),
        ("openrouter", "openai/gpt-4o", False),
        ("local", "gpt-4o", False),
    ],
)
def test_the_vocabulary_is_held_only_for_openais_newer_models(provider: str, model: str, held: bool) -> None:
    assert tokens.holds_vocabulary(provider, model) is held


def test_a_damaged_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_built", [])
    monkeypatch.setattr(tokens, "_SHA256", "0" * 64)
    with pytest.raises(tokens.VocabularyDamaged):
        tokens.encoding()
