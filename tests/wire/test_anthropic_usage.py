from random import Random

import pytest
from anthropic_recorded import answer_of
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.usage import NOTHING, AtLeast, Exact, Metered, Usage
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.anthropic_usage import UsageTally, metered_usage, usage_object
from spendfuse.wire.json_body import Json


def tallied(*objects: Json) -> Metered:
    tally = UsageTally()
    for one in objects:
        tally.take(one)
    return tally.metered()


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("plain", Usage(22, 6, cache_read_tokens=7, cache_write_tokens=5)),
        ("thinking", Usage(40, 331, reasoning_tokens=320)),
        ("older_cache", Usage(1_504, 30, cache_write_tokens=1_500)),
    ],
)
def test_a_whole_answer_says_what_it_used(name: str, usage: Usage) -> None:
    assert AnthropicMessages().metered(answer_of(f"{name}.json")) == Exact(usage)


@pytest.mark.parametrize("usage", [b"null", b"{}", b"5", b"[]"])
def test_an_answer_without_usage_used_at_least_nothing(usage: bytes) -> None:
    assert AnthropicMessages().metered(b'{"type":"message","usage":' + usage + b"}") == AtLeast(NOTHING)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"[]", b"null", b'{"ok":true}', b"\xff", answer_of("error.json"), answer_of("count.json")),
        b'{"usage":{"input_tokens":5,"output_tokens":5}}',
    ],
)
def test_what_is_no_message_is_not_metered(body: bytes) -> None:
    assert AnthropicMessages().metered(body) is None


@pytest.mark.parametrize(
    ("usage", "metered"),
    [
        (None, AtLeast(NOTHING)),
        ({}, AtLeast(NOTHING)),
        ("12", AtLeast(NOTHING)),
        ({"input_tokens": 0, "output_tokens": 0}, AtLeast(NOTHING)),
        ({"input_tokens": 0, "output_tokens": 9}, AtLeast(Usage(0, 9))),
        ({"input_tokens": -5, "output_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"input_tokens": "5", "output_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"input_tokens": True, "output_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"input_tokens": 5.0, "output_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"input_tokens": 2**62, "output_tokens": 3}, AtLeast(Usage(0, 3))),
        ({"input_tokens": 5}, AtLeast(Usage(5, 0))),
        ({"input_tokens": 5, "output_tokens": None}, AtLeast(Usage(5, 0))),
        ({"output_tokens": 3, "cache_read_input_tokens": 7}, AtLeast(Usage(7, 3, cache_read_tokens=7))),
        ({"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": -1}, AtLeast(Usage(5, 3))),
        ({"input_tokens": 5, "output_tokens": 3, "cache_creation_input_tokens": 2**62}, AtLeast(Usage(5, 3))),
        ({"input_tokens": 5, "output_tokens": 3, "cache_creation_input_tokens": None}, Exact(Usage(5, 3))),
        ({"input_tokens": 5, "output_tokens": 0}, Exact(Usage(5, 0))),
        ({"input_tokens": 0, "output_tokens": 3, "cache_read_input_tokens": 7}, Exact(Usage(7, 3, 7))),
    ],
)
def test_usage_is_exact_only_where_every_count_of_it_can_be_read(usage: Json, metered: Metered) -> None:
    assert metered_usage(usage) == metered


@pytest.mark.parametrize(
    ("created", "breakdown", "short", "long"),
    [
        (100, None, 100, 0),
        (100, {}, 100, 0),
        (100, "x", 100, 0),
        (100, {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}, 60, 40),
        (100, {"ephemeral_5m_input_tokens": 60}, 100, 0),
        (100, {"ephemeral_1h_input_tokens": 60}, 0, 100),
        (100, {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": -1}, 60, 40),
        (100, {"ephemeral_5m_input_tokens": 90, "ephemeral_1h_input_tokens": 90}, 90, 90),
        (None, {"ephemeral_5m_input_tokens": 9, "ephemeral_1h_input_tokens": 8}, 9, 8),
    ],
)
def test_what_was_written_to_a_cache_is_read_at_its_dearest(
    created: Json, breakdown: Json, short: int, long: int
) -> None:
    usage: Json = {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": created,
        "cache_creation": breakdown,
    }
    whole = 13 + short + long
    assert metered_usage(usage) == Exact(Usage(whole, 5, 3, short, cache_write_long_tokens=long))


@pytest.mark.parametrize(
    ("thinking", "output", "reasoning"), [(4, 10, 4), (10, 10, 10), (11, 21, 11), (-1, 10, 0), ("x", 10, 0)]
)
def test_thinking_is_a_part_of_the_output_or_comes_on_top(thinking: Json, output: int, reasoning: int) -> None:
    usage: Json = {
        "input_tokens": 1,
        "output_tokens": 10,
        "output_tokens_details": {"thinking_tokens": thinking},
    }
    assert metered_usage(usage) == Exact(Usage(1, output, reasoning_tokens=reasoning))


def test_later_usage_wins_and_nulls_say_nothing() -> None:
    first: Json = {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}
    last: Json = {"input_tokens": 12, "cache_read_input_tokens": None, "output_tokens": 80}
    assert tallied(first, last) == Exact(Usage(17, 80, cache_read_tokens=5))


def test_a_count_never_falls() -> None:
    assert tallied({"input_tokens": 10, "output_tokens": 9}, {"input_tokens": 0, "output_tokens": 3}) == Exact(
        Usage(10, 9)
    )


def test_one_count_that_cannot_be_read_leaves_the_whole_uncertain() -> None:
    whole: Json = {"input_tokens": 10, "output_tokens": 9}
    for objects in ([whole, {"output_tokens": -1}], [{"input_tokens": "x"}, whole]):
        assert tallied(*objects) == AtLeast(Usage(10, 9))


NAMES = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
counts = st.none() | st.booleans() | st.integers(-5, 50) | st.just(2**70) | st.just("5") | st.floats()
parts = st.dictionaries(
    st.sampled_from(["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "thinking_tokens"]), counts
)
usages = st.builds(
    lambda flat, nested: {**flat, **nested},
    st.dictionaries(st.sampled_from(NAMES), counts),
    st.dictionaries(st.sampled_from(["cache_creation", "output_tokens_details"]), parts | counts),
)


def count_in(usage: dict[str, Json], name: str) -> int | None:
    count = usage.get(name)
    return count if type(count) is int and 0 <= count < 2**40 else None


@given(st.lists(usages, max_size=4))
def test_no_usage_raises_or_loses_a_token_that_it_names(objects: list[dict[str, Json]]) -> None:
    metered = tallied(*objects)
    most = {
        name: max((count for one in objects if (count := count_in(one, name)) is not None), default=0) for name in NAMES
    }
    assert metered.usage.input_tokens >= sum(most[name] for name in NAMES[:3])
    assert metered.usage.output_tokens >= most["output_tokens"]
    assert metered.usage.cache_read_tokens == most["cache_read_input_tokens"]
    spoilt = any(one.get(name) is not None and count_in(one, name) is None for one in objects for name in NAMES)
    assert not (spoilt and isinstance(metered, Exact))


@given(st.lists(usages, max_size=4), st.randoms(use_true_random=False))
def test_the_order_in_which_usage_comes_does_not_matter(objects: list[dict[str, Json]], random: Random) -> None:
    shuffled = list(objects)
    random.shuffle(shuffled)
    assert tallied(*shuffled) == tallied(*objects)
    assert tallied(*objects, *objects) == tallied(*objects)


@given(st.lists(st.integers(0, 10**6), min_size=4, max_size=4), st.integers(0, 10**6))
def test_a_usage_that_is_written_reads_the_same(inputs: list[int], output: int) -> None:
    text, read, short, long = inputs
    usage = Usage(1 + text + read + short + long, output, read, short, cache_write_long_tokens=long)
    assert metered_usage(usage_object(usage)) == Exact(usage)
