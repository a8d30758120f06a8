import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import recording

from spendfuse.core.usage import NOTHING, AtLeast, Exact, Usage
from spendfuse.wire.json_body import Json
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_embeddings import OpenAIEmbeddings
from spendfuse.wire.openai_usage import metered_embeddings, metered_usage, usage_object


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("openai_plain", Usage(2019, 10, cache_read_tokens=1920)),
        ("openai_tools", Usage(82, 17)),
        ("openai_two_choices", Usage(19, 21)),
        ("openai_audio", Usage(40, 90, input_audio_tokens=30, output_audio_tokens=75)),
        ("openai_reasoning", Usage(25, 331, reasoning_tokens=320)),
        ("deepseek", Usage(120, 9, cache_read_tokens=64)),
        ("gemini_thinking", Usage(8, 302)),
        ("xai_reasoning", Usage(32, 103, cache_read_tokens=6, reasoning_tokens=94)),
    ],
)
def test_a_whole_answer_says_what_it_used(name: str, usage: Usage) -> None:
    assert OpenAIChat().metered(recording(f"{name}.json")) == Exact(usage)


def test_an_answer_without_usage_used_at_least_nothing() -> None:
    assert OpenAIChat().metered(recording("without_usage.json")) == AtLeast(NOTHING)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"ok":true}', b"\xff", recording("error.json")])
def test_what_is_no_answer_is_not_metered(body: bytes) -> None:
    assert OpenAIChat().metered(body) is None
    assert OpenAIEmbeddings().metered(body) is None


@pytest.mark.parametrize(
    ("usage", "metered"),
    [
        (None, AtLeast(NOTHING)),
        ({}, AtLeast(NOTHING)),
        ("12", AtLeast(NOTHING)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, AtLeast(NOTHING)),
        ({"prompt_tokens": -5, "completion_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"prompt_tokens": "5", "completion_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"prompt_tokens": True, "completion_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"prompt_tokens": 5.5, "completion_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"prompt_tokens": 2**62, "completion_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"prompt_tokens": 5, "completion_tokens": None}, AtLeast(Usage(5, 0))),
        ({"prompt_tokens": 5, "completion_tokens": -3}, AtLeast(Usage(5, 0))),
        ({"prompt_tokens": 5, "total_tokens": 9}, Exact(Usage(5, 4))),
        ({"prompt_tokens": 5, "completion_tokens": 3}, Exact(Usage(5, 3))),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 1}, Exact(Usage(5, 3))),
    ],
)
def test_usage_is_exact_only_where_it_says_input_and_output(usage: Json, metered: object) -> None:
    assert metered_usage(usage) == metered


@pytest.mark.parametrize(
    ("inputs", "outputs", "usage"),
    [
        ({"cached_tokens": 101}, {}, Usage(100, 50)),
        ({"cached_tokens": -1}, {}, Usage(100, 50)),
        ({"audio_tokens": 900}, {}, Usage(100, 50, input_audio_tokens=100)),
        ({"audio_tokens": 60, "cached_tokens": 50}, {}, Usage(100, 50, input_audio_tokens=60)),
        ({"cache_write_tokens": 30, "cached_tokens": 70}, {}, Usage(100, 50, 70, 30)),
        ({}, {"audio_tokens": 51}, Usage(100, 50, output_audio_tokens=50)),
        ({}, {"reasoning_tokens": 60}, Usage(100, 110, reasoning_tokens=60)),
        ({}, None, Usage(100, 50)),
    ],
)
def test_parts_larger_than_the_whole_are_read_at_their_dearest(inputs: Json, outputs: Json, usage: Usage) -> None:
    value: Json = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": inputs,
        "completion_tokens_details": outputs,
    }
    assert metered_usage(value) == Exact(usage)


counts = st.none() | st.booleans() | st.integers(-5, 50) | st.just(2**70) | st.just("5") | st.floats()
names = st.sampled_from(
    [
        *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens"),
        *("cached_tokens", "audio_tokens", "reasoning_tokens", "cache_write_tokens"),
    ]
)
details = st.dictionaries(names, counts) | counts


@given(
    st.dictionaries(names, counts),
    st.fixed_dictionaries({}, optional={"prompt_tokens_details": details, "completion_tokens_details": details}),
)
def test_no_usage_raises_or_loses_a_token_that_it_names(counts: dict[str, Json], parts: dict[str, Json]) -> None:
    metered = metered_usage({**counts, **parts})
    for name, tokens in (
        ("prompt_tokens", metered.usage.input_tokens),
        ("completion_tokens", metered.usage.output_tokens),
    ):
        said = counts.get(name)
        assert not (type(said) is int and 0 <= said < 2**40) or tokens >= said


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.data())
def test_a_usage_that_is_written_reads_the_same(prompt: int, output: int, data: st.DataObject) -> None:
    audio = data.draw(st.integers(0, prompt))
    usage = Usage(
        prompt,
        output,
        cache_read_tokens=data.draw(st.integers(0, prompt - audio)),
        input_audio_tokens=audio,
        output_audio_tokens=data.draw(st.integers(0, output)),
        reasoning_tokens=data.draw(st.integers(0, output)),
    )
    assert metered_usage(usage_object(usage)) == Exact(usage)


@pytest.mark.parametrize(
    ("usage", "metered"),
    [
        ({"prompt_tokens": 8, "total_tokens": 8}, Exact(Usage(8, 0))),
        ({"prompt_tokens": 8}, Exact(Usage(8, 0))),
        ({"prompt_tokens": 0, "total_tokens": 0}, AtLeast(NOTHING)),
        ({"prompt_tokens": "8"}, AtLeast(NOTHING)),
        (None, AtLeast(NOTHING)),
    ],
)
def test_embeddings_use_input_only(usage: Json, metered: object) -> None:
    assert metered_embeddings(usage) == metered


def test_a_recorded_answer_of_embeddings_is_metered() -> None:
    assert OpenAIEmbeddings().metered(recording("openai_embeddings.json")) == Exact(Usage(8, 0))
    assert OpenAIEmbeddings().metered(b'{"data":[]}') == AtLeast(NOTHING)
