import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import FOLDER, chat_call, recording

from spendfuse.core.usage import Usage
from spendfuse.wire.json_body import Json
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_stream import ChatStreamMeter
from spendfuse.wire.sse import EVENT_BYTES_MAX

STREAMS = sorted(path.name for path in FOLDER.glob("*.sse"))
WITH_USAGE_CHUNK = {
    *("azure.sse", "multi_line_data.sse", "openai_audio.sse", "openai_plain.sse", "openai_reasoning.sse"),
    *("openai_tools.sse", "openai_two_choices.sse", "vllm_running_usage.sse"),
}


def meter_of(*, asks_usage: bool = False, n: int = 1, audio: bool = False) -> ChatStreamMeter:
    fields: dict[str, Json] = {"audio": {"voice": "alloy"}} if audio else {}
    options: Json = {"include_usage": asks_usage}
    return OpenAIChat().stream_meter(chat_call(stream=True, stream_options=options, n=n, **fields))


def passed(meter: ChatStreamMeter, raw: bytes) -> bytes:
    return meter.feed(raw) + meter.finish()


def chunks_in(raw: bytes) -> list[dict[str, Json]]:
    """What a client reads: the JSON of every event but `[DONE]`."""
    payloads = [line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:")]
    return [json.loads(payload) for payload in payloads if payload != b"[DONE]"]


@pytest.mark.parametrize(
    ("name", "choices", "usage", "texts", "deltas"),
    [
        ("openai_plain", 1, Usage(2019, 6, cache_read_tokens=1920), ['Grüße, "usage":{\n 世界!'], 5),
        ("openai_tools", 1, Usage(82, 31), ['get_weather{"city":"Oslo"}shellls -l'], 8),
        ("openai_two_choices", 2, Usage(11, 4), ["One two", "Uno dos"], 4),
        ("openai_reasoning", 1, Usage(25, 321, reasoning_tokens=320), ["42"], 1),
        ("openai_audio", 1, Usage(40, 90, input_audio_tokens=30, output_audio_tokens=75), ["Hi there"], 2),
        ("deepseek", 1, Usage(120, 9, cache_read_tokens=64, reasoning_tokens=5), ["HmmYes"], 2),
        ("azure", 1, Usage(18, 3), ["Hello"], 1),
        ("groq", 1, Usage(39, 2), ["Fast"], 1),
        ("vllm_running_usage", 1, Usage(7, 3), ["ab"], 2),
        ("crlf_without_usage", 1, None, ["Hey"], 1),
        ("error_in_stream", 1, None, ["Half"], 1),
        ("multi_line_data", 1, Usage(3, 1), ["ok"], 1),
    ],
)
def test_a_recorded_stream_is_metered(
    name: str, choices: int, usage: Usage | None, texts: list[str], deltas: int
) -> None:
    meter = meter_of(n=choices)
    passed(meter, recording(f"{name}.sse"))
    assert meter.usage == usage
    assert meter.visible.texts == texts
    assert meter.visible.deltas == deltas
    assert meter.visible.text_bytes == sum(len(text.encode()) for text in texts)
    assert meter.is_complete is (name != "error_in_stream")
    assert meter.error_seen is (name == "error_in_stream")
    assert not meter.has_unread


@pytest.mark.parametrize("name", STREAMS)
def test_bytes_are_unaltered_when_the_client_asked_for_usage(name: str) -> None:
    """Invariant 17."""
    assert passed(meter_of(asks_usage=True), recording(name)) == recording(name)


@pytest.mark.parametrize("name", STREAMS)
def test_only_the_usage_chunk_is_dropped_when_the_client_did_not_ask(name: str) -> None:
    """Invariant 17."""
    raw = recording(name)
    out = passed(meter_of(), raw)
    if name not in WITH_USAGE_CHUNK:
        assert out == raw
        return
    before = next(at for at in range(len(raw)) if at == len(out) or raw[at] != out[at])
    dropped = len(raw) - len(out)
    assert raw[:before] + raw[before + dropped :] == out
    assert raw.count(b"prompt_tokens") > 0
    assert b'"choices":[],"usage"' not in out
    assert b'"choices": [], "usage"' not in out
    assert out.rstrip().endswith(b"[DONE]")


def test_azures_first_chunk_without_choices_is_kept() -> None:
    assert b"prompt_filter_results" in passed(meter_of(), recording("azure.sse"))


@st.composite
def cut_up(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    raw = recording(draw(st.sampled_from(STREAMS)))
    line_end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    raw = raw.replace(b"\r\n", b"\n").replace(b"\n", line_end)
    # Cuts crowd around the line ends, where mistakes would be.
    ends = [at + shift for at in range(len(raw)) if raw[at : at + 1] in (b"\r", b"\n") for shift in (0, 1)]
    cuts = sorted(set(draw(st.lists(st.sampled_from(ends) | st.integers(0, len(raw)), max_size=30))))
    return raw, [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@given(cut_up(), st.booleans())
def test_any_chunks_give_the_same_bytes_and_usage(stream: tuple[bytes, list[bytes]], asks_usage: bool) -> None:
    raw, chunks = stream
    whole, pieces = meter_of(asks_usage=asks_usage), meter_of(asks_usage=asks_usage)
    expected = passed(whole, raw)
    assert b"".join(pieces.feed(chunk) for chunk in chunks) + pieces.finish() == expected
    assert (pieces.usage, pieces.visible, pieces.is_complete) == (whole.usage, whole.visible, whole.is_complete)
    assert expected == raw or not asks_usage


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data: {}\n\n", b"data: [1]\n\n", b"data: 5\n\n"])))
def test_any_bytes_at_all_pass_and_raise_nothing(chunks: list[bytes]) -> None:
    meter = meter_of()
    assert b"".join(meter.feed(chunk) for chunk in chunks) + meter.finish() == b"".join(chunks)


odd = st.recursive(
    st.none() | st.integers(-1, 3) | st.just("x"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["delta", "function", "index", "content", "usage", "text"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
keys = st.sampled_from(["id", "choices", "usage", "x_groq", "error", "model", "created"])


@given(
    st.lists(
        st.dictionaries(keys, odd | st.lists(st.dictionaries(st.sampled_from(["delta", "index"]), odd), max_size=2)),
        max_size=4,
    )
)
def test_a_chunk_of_any_shape_raises_nothing(chunks: list[dict[str, Json]]) -> None:
    meter = meter_of()
    for chunk in chunks:
        meter.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    assert meter.cut(Usage(1, 1)).endswith(b"data: [DONE]\n\n")


def test_an_event_is_passed_on_with_its_last_byte() -> None:
    meter, event = meter_of(), b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    assert [meter.feed(event[at : at + 1]) for at in range(len(event))] == [b""] * (len(event) - 1) + [event]


def test_the_last_event_is_read_even_without_its_end() -> None:
    meter = meter_of()
    assert passed(meter, recording("openai_plain.sse").rstrip()).endswith(b"data: [DONE]")
    assert meter.is_complete


def test_a_usage_chunk_without_its_end_is_dropped_too() -> None:
    meter = meter_of()
    raw = recording("openai_plain.sse").partition(b"data: [DONE]")[0].rstrip()
    assert b'"choices":[],"usage"' not in passed(meter, raw)
    assert meter.usage == Usage(2019, 6, cache_read_tokens=1920)
    assert not meter.is_complete


def test_a_count_that_still_runs_is_no_usage() -> None:
    meter = meter_of()
    before_the_end = recording("vllm_running_usage.sse").partition(b'"finish_reason": "stop"')[0]
    meter.feed(before_the_end.rpartition(b"data:")[0])
    assert meter.usage is None


def test_usage_is_known_before_the_streams_own_end() -> None:
    meter = meter_of()
    meter.feed(recording("deepseek.sse").partition(b"data: [DONE]")[0])
    assert meter.usage == Usage(120, 9, cache_read_tokens=64, reasoning_tokens=5)
    assert not meter.is_complete


@pytest.mark.parametrize(
    ("usage", "is_passed"), [(b"null", True), (b"{}", False), (b'{"prompt_tokens":-1}', False), (b'"x"', True)]
)
def test_a_usage_chunk_that_cannot_be_read_is_no_usage(usage: bytes, is_passed: bool) -> None:
    meter = meter_of()
    event = b'data: {"choices":[],"usage":' + usage + b"}\n\n"
    assert meter.feed(event) == (event if is_passed else b"")
    meter.feed(b"data: [DONE]\n\n")
    assert meter.usage is None


@pytest.mark.parametrize(
    ("name", "hidden"), [("openai_plain", False), ("openai_reasoning", True), ("openai_audio", True)]
)
def test_hidden_output_is_noticed(name: str, hidden: bool) -> None:
    meter = meter_of()
    passed(meter, recording(f"{name}.sse"))
    assert meter.visible.has_hidden is hidden


def test_audio_that_was_asked_for_is_hidden_from_the_start() -> None:
    assert meter_of(audio=True).visible.has_hidden


def test_an_event_that_is_no_json_passes_and_is_marked() -> None:
    meter = meter_of()
    assert meter.feed(b"data: oops\n\n") == b"data: oops\n\n"
    assert meter.has_unread


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1 << 24])
def test_an_event_beyond_the_maximum_passes_unread_and_is_marked(chunk_bytes: int) -> None:
    meter = meter_of()
    raw = b'data: {"choices":[]}\n\ndata: "' + b"x" * EVENT_BYTES_MAX + b'"\n\n' + recording("openai_plain.sse")
    out = b"".join(meter.feed(raw[at : at + chunk_bytes]) for at in range(0, len(raw), chunk_bytes))
    assert out + meter.finish() == raw
    assert meter.has_unread
    assert meter.usage is None
    assert meter.cut(Usage(1, 1)).startswith(b"\n\ndata: ")


def cut_after(name: str, marker: bytes, meter: ChatStreamMeter) -> tuple[bytes, bytes]:
    """Feed a recording up to and with a marker, which may be in the middle of an event; then cut."""
    before, found, _ = recording(name).partition(marker)
    assert found
    return meter.feed(before + found), meter.cut(Usage(100, 7, reasoning_tokens=2))


def test_a_cut_ends_the_stream_in_its_own_words() -> None:
    out, end = cut_after("openai_plain.sse", b'"content":"!"', meter_of(asks_usage=True))
    assert out.endswith(b"\n\n")
    assert b'"content":"!"' not in out
    head = {"id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", "object": "chat.completion.chunk"} | {
        "created": 1741570283,
        "model": "gpt-4o-mini-2024-07-18",
    }
    last, usage = chunks_in(end)
    assert last == head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    assert usage.pop("usage") == {
        "prompt_tokens": 100,
        "completion_tokens": 7,
        "total_tokens": 107,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
    }
    assert usage == head | {"choices": []}
    assert end.endswith(b"data: [DONE]\n\n")


def test_a_cut_shows_no_usage_to_a_client_that_did_not_ask() -> None:
    _, end = cut_after("openai_plain.sse", b'"content":"!"', meter_of())
    assert [list(chunk) for chunk in chunks_in(end)] == [["id", "object", "created", "model", "choices"]]


def test_a_cut_ends_only_choices_that_are_open() -> None:
    _, end = cut_after("openai_two_choices.sse", b'"finish_reason":"stop"}],"usage":null}\n\n', meter_of(n=2))
    assert [chunk["choices"] for chunk in chunks_in(end)] == [[{"index": 0, "delta": {}, "finish_reason": "length"}]]


def test_a_cut_after_the_usage_chunk_repeats_nothing() -> None:
    _, end = cut_after("openai_plain.sse", b'"obfuscation":""}\n\n', meter_of(asks_usage=True))
    full = recording("openai_plain.sse")
    meter = meter_of(asks_usage=True)
    meter.feed(full.partition(b"data: [DONE]")[0])
    assert meter.cut(Usage(1, 1)) == b"data: [DONE]\n\n"
    assert end.count(b'"usage"') == 1


def test_a_cut_before_the_first_chunk_is_well_formed() -> None:
    (chunk,) = chunks_in(meter_of().cut(Usage(5, 0)))
    assert (chunk["model"], chunk["created"]) == ("smart", 0)


def test_nothing_is_added_after_the_streams_own_end() -> None:
    meter = meter_of()
    passed(meter, recording("openai_plain.sse"))
    assert meter.cut(Usage(1, 1)) == b""
