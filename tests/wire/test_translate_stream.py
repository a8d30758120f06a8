import json
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from recorded import FOLDER, chat_call

from spendfuse.core.calls import Call
from spendfuse.core.usage import Usage
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.json_body import Json, JsonObject
from spendfuse.wire.sse import EVENT_BYTES_MAX
from spendfuse.wire.translate.chat_over_messages import ChatOverMessages
from spendfuse.wire.translate.stream import ChatOverMessagesMeter

NOW_S = 1_700_000_000
RECORDINGS = FOLDER / "messages"
STREAMS = sorted(path.stem for path in RECORDINGS.glob("*.sse"))
DONE = b"data: [DONE]\n\n"
HEAD: JsonObject = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "object": "chat.completion.chunk",
    "created": NOW_S,
    "model": "claude-sonnet-4-5-20250929",
}


def recorded_stream(name: str) -> bytes:
    return (RECORDINGS / f"{name}.sse").read_bytes()


def carried(*, asks_usage: bool = False) -> Call:
    exchange = ChatOverMessages(now_s=lambda: NOW_S)
    call = exchange.carry(chat_call(stream=True, stream_options={"include_usage": asks_usage}))
    assert isinstance(call, Call)
    return call


def meter_of(*, asks_usage: bool = False) -> ChatOverMessagesMeter:
    return ChatOverMessages(now_s=lambda: NOW_S).stream_meter(carried(asks_usage=asks_usage))


def translated(name: str, meter: ChatOverMessagesMeter) -> bytes:
    return meter.feed(recorded_stream(name)) + meter.finish()


def chunks_in(raw: bytes) -> list[JsonObject]:
    """The JSON of every event but `[DONE]`. Nothing but whole events of one line may be there."""
    assert raw == b"" or raw.endswith(b"\n\n")
    events = raw.split(b"\n\n")[:-1]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events), raw
    return [json.loads(event[6:]) for event in events if event != b"data: [DONE]"]


def choice(delta: JsonObject, reason: str | None = None) -> JsonObject:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}


BEGIN = choice({"role": "assistant", "content": "", "refusal": None})


@pytest.mark.parametrize(
    ("name", "texts", "reason", "usage", "hidden"),
    [
        ("plain", ["Grüße,", ' "usage":{\n', " 世界!"], "stop", Usage(25, 15), False),
        (
            "cached",
            ["One ", "two"],
            "stop",
            Usage(22, 9, cache_read_tokens=7, cache_write_tokens=2, cache_write_long_tokens=3),
            False,
        ),
        ("thinking", ["42"], "length", Usage(31, 64), True),
        ("refusal", [], "content_filter", Usage(12, 3), False),
        ("unknown_events", ["A", "B"], "length", Usage(12, 2), True),
    ],
)
def test_a_recorded_stream_becomes_chat_chunks(
    name: str, texts: list[str], reason: str, usage: Usage, hidden: bool
) -> None:
    meter = meter_of()
    out = translated(name, meter)
    assert chunks_in(out) == [BEGIN, *[choice({"content": text}) for text in texts], choice({}, reason)]
    assert out.endswith(DONE)
    assert meter.usage == usage
    assert meter.visible.has_hidden is hidden
    assert meter.is_complete
    assert not meter.has_unread


def test_usage_comes_as_a_chunk_of_its_own_where_the_client_asked_for_it() -> None:
    plain, asked = translated("cached", meter_of()), translated("cached", meter_of(asks_usage=True))
    assert asked.startswith(plain.removesuffix(DONE))
    (last,) = chunks_in(asked.removeprefix(plain.removesuffix(DONE)))
    assert last == {
        **HEAD,
        "choices": [],
        "usage": {
            "prompt_tokens": 22,
            "completion_tokens": 9,
            "total_tokens": 31,
            "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }


def test_an_error_within_a_stream_is_told_as_openai_tells_it() -> None:
    meter = meter_of(asks_usage=True)
    out = translated("error_in_stream", meter)
    error: JsonObject = {"message": "Overloaded", "type": "overloaded_error", "param": None, "code": None}
    assert chunks_in(out) == [BEGIN, choice({"content": "Half"}), {"error": error}]
    assert DONE not in out
    assert meter.error_seen
    assert not meter.is_complete
    assert meter.usage is None


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_metered_does_not_depend_on_who_listens(name: str) -> None:
    meter, native = meter_of(), AnthropicMessages().stream_meter(carried())
    translated(name, meter)
    native.feed(recorded_stream(name))
    native.finish()
    for of_meter in ("usage", "visible", "is_complete", "error_seen", "has_unread"):
        assert getattr(meter, of_meter) == getattr(native, of_meter)


@st.composite
def cut_up(draw: st.DrawFn) -> list[bytes]:
    raw = recorded_stream(draw(st.sampled_from(STREAMS)))
    raw = raw.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))
    cuts = sorted(set(draw(st.lists(st.integers(0, len(raw)), max_size=30))))
    return [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@given(cut_up(), st.booleans())
def test_any_chunks_give_the_same_translation(chunks: list[bytes], asks_usage: bool) -> None:
    whole, pieces = meter_of(asks_usage=asks_usage), meter_of(asks_usage=asks_usage)
    expected = whole.feed(b"".join(chunks)) + whole.finish()
    assert b"".join(pieces.feed(chunk) for chunk in chunks) + pieces.finish() == expected
    assert (pieces.usage, pieces.visible, pieces.is_complete) == (whole.usage, whole.visible, whole.is_complete)


@pytest.mark.parametrize("name", STREAMS)
def test_no_event_is_held_back_longer_than_its_end(name: str) -> None:
    """Byte by byte: whatever an event gives comes with its last byte."""
    slow, quick = meter_of(asks_usage=True), meter_of(asks_usage=True)
    for event in recorded_stream(name).split(b"\n\n")[:-1]:
        whole = event + b"\n\n"
        pieces = [slow.feed(whole[at : at + 1]) for at in range(len(whole))]
        assert pieces == [b""] * (len(whole) - 1) + [quick.feed(whole)]


def test_the_last_event_is_read_even_without_its_end() -> None:
    meter = meter_of()
    out = meter.feed(recorded_stream("plain").rstrip()) + meter.finish()
    assert out.endswith(DONE)
    assert meter.is_complete


def test_a_stream_that_never_said_why_it_ended_ends_as_cut_short() -> None:
    meter = meter_of(asks_usage=True)
    out = meter.feed(b'data: {"type":"message_stop"}\n\n')
    (chunk,) = chunks_in(out)
    assert chunk["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert (chunk["model"], chunk["created"]) == ("smart", NOW_S)
    assert out.endswith(DONE)


def test_nothing_follows_the_streams_own_end() -> None:
    meter = meter_of(asks_usage=True)
    translated("plain", meter)
    assert meter.feed(b'data: {"type":"error","error":{"message":"late"}}\n\n' + b"data: oops\n\n") == b""
    assert meter.finish() == b""
    assert meter.cut(Usage(1, 1)) == b""


def cut_after(marker: bytes, *, asks_usage: bool) -> tuple[bytes, bytes]:
    """Feed a recording up to and with a marker, which may be in the middle of an event; then cut."""
    before, found, _ = recorded_stream("plain").partition(marker)
    assert found
    meter = meter_of(asks_usage=asks_usage)
    return meter.feed(before + found), meter.cut(Usage(100, 7))


def test_a_cut_ends_the_stream_well_formed() -> None:
    out, end = cut_after(b" \xe4\xb8\x96", asks_usage=True)
    assert chunks_in(out)[-1] == choice({"content": ' "usage":{\n'})
    last, usage = chunks_in(end)
    assert last == choice({}, "length")
    assert usage["choices"] == []
    assert isinstance(usage["usage"], dict)
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (100, 7)
    assert end.endswith(DONE)


def test_a_cut_shows_no_usage_to_a_client_that_did_not_ask() -> None:
    _, end = cut_after(b" \xe4\xb8\x96", asks_usage=False)
    assert chunks_in(end) == [choice({}, "length")]


def test_a_cut_after_the_reason_gives_no_second_one() -> None:
    _, end = cut_after(b'"output_tokens":15}}\n\n', asks_usage=True)
    assert [chunk["choices"] for chunk in chunks_in(end)] == [[]]
    assert end.endswith(DONE)


def test_a_cut_happens_once() -> None:
    meter = meter_of()
    assert meter.cut(Usage(1, 1)).endswith(DONE)
    assert meter.cut(Usage(1, 1)) == b""
    assert meter.is_complete
    assert translated("plain", meter) == b""


UNREADABLE = [b"data: oops\n\n", b'data: "' + b"x" * EVENT_BYTES_MAX + b'"\n\n']


@pytest.mark.parametrize("event", UNREADABLE, ids=["no JSON", "too large"])
def test_an_event_that_cannot_be_read_is_an_error_and_not_a_gap(event: bytes) -> None:
    meter = meter_of()
    head, found, rest = recorded_stream("plain").partition(b"event: ping\n")
    out = meter.feed(head + event + found + rest) + meter.finish()
    begin, error = chunks_in(out)
    assert begin == BEGIN
    assert isinstance(error["error"], dict)
    assert "could not be read" in str(error["error"]["message"])
    assert meter.has_unread


odd = st.recursive(
    st.none() | st.integers(-1, 3) | st.sampled_from(["x", "text", "text_delta", "end_turn"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "text", "delta", "usage", "stop_reason", "id", "model", "message"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
kinds = st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop", "error", "else"]
)
fields = st.sampled_from(["message", "content_block", "delta", "error", "usage", "index"])


@given(st.lists(st.tuples(kinds, st.dictionaries(fields, odd, max_size=3)), max_size=5), st.booleans())
def test_an_event_of_any_shape_raises_nothing_and_gives_whole_chunks(
    events: list[tuple[str, dict[str, Json]]], asks_usage: bool
) -> None:
    meter = meter_of(asks_usage=asks_usage)
    out = b"".join(
        meter.feed(b"data: " + json.dumps({"type": kind, **rest}).encode() + b"\n\n") for kind, rest in events
    )
    chunks_in(out)
    assert (out + meter.cut(Usage(1, 1))).endswith(DONE)


def read_by_sdk(body: bytes) -> list[ChatCompletionChunk]:
    def answer(_: Any) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    sdk = openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=client, max_retries=0)
    return list(sdk.chat.completions.create(model="smart", messages=[{"role": "user", "content": "Hi"}], stream=True))


def test_openais_sdk_reads_a_stream() -> None:
    chunks = read_by_sdk(translated("plain", meter_of(asks_usage=True)))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    texts = [one.delta.content or "" for chunk in chunks for one in chunk.choices]
    assert "".join(texts) == 'Grüße, "usage":{\n 世界!'
    assert [one.finish_reason for chunk in chunks for one in chunk.choices if one.finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 40


def test_openais_sdk_raises_an_error_within_a_stream() -> None:
    with pytest.raises(openai.APIError, match="Overloaded"):
        read_by_sdk(translated("error_in_stream", meter_of()))
