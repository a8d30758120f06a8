import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.usage import NOTHING, Usage

counts = st.integers(0, 10**6)


@given(st.lists(counts, min_size=6, max_size=6), counts)
def test_text_input_is_what_its_parts_leave(parts: list[int], output: int) -> None:
    text, *others = parts
    usage = Usage(sum(parts), output, *others)
    assert usage.text_input_tokens == text
    assert usage.tokens == sum(parts) + output


@pytest.mark.parametrize(
    "parts",
    [
        {"input_tokens": -1, "output_tokens": 0},
        {"input_tokens": 0, "output_tokens": -1},
        {"input_tokens": 5, "output_tokens": 0, "cache_read_tokens": -1},
        {"input_tokens": 5, "output_tokens": 0, "cache_read_tokens": 6},
        {"input_tokens": 5, "output_tokens": 0, "cache_read_tokens": 3, "input_audio_tokens": 3},
        {"input_tokens": 0, "output_tokens": 5, "output_audio_tokens": 6},
        {"input_tokens": 0, "output_tokens": 5, "reasoning_tokens": 6},
        {"input_tokens": 0, "output_tokens": 5, "reasoning_tokens": -1},
    ],
)
def test_usage_that_cannot_be_is_refused(parts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"negative|exceed"):
        Usage(**parts)


def test_nothing_has_no_tokens() -> None:
    assert NOTHING.tokens == 0
