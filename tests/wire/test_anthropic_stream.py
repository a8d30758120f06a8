import json
from collections.abc import Iterator

import anthropic
import httpx2
import pytest
from anthropic_recorded import ANSWERS, answer_of, messages_call
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import Usage
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.anthropic_stream import MessagesStreamMeter
from spendfuse.wire.json_body import Json
from spendfuse.wire.sse import EVENT_BYTES_MAX

STREAMS = sorted(path.name for path in ANSWERS.glob("*.sse"))
COMPLETE = [name for name in STREAMS if name != "error_in_stream.sse"]
CUT_USAGE = Usage(100, 7, cache_read_tokens=40, cache_write_tokens=20, cache_write_long_tokens=10)


def meter_of(**fields: Json) -> MessagesStreamMeter:
    return AnthropicMessages().stream_meter(messages_call(stream=True, **fields))


def passed(meter: MessagesStreamMeter, raw: bytes) -> bytes:
    return meter.feed(raw) + meter.finish()


def events_in(raw: bytes) -> list[dict[str, Json]]:
    """What a client reads; every event must be named as its data is typed."""
    events: list[dict[str, Json]] = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


@pytest.mark.parametrize(
    ("name", "usage", "text", "deltas", "hidden"),
    [
        ("plain", Usage(25, 15), 'Grüße, "usage":{\n 世界!', 2, False),
        (
            "tools_cached",
            Usage(2_312, 61, cache_read_tokens=2_000, cache_write_tokens=100, cache_write_long_tokens=200),
            'Let me look.get_weather{"city": "Oslo"}',
            4,
            False,
        ),
        ("thinking", Usage(40, 331, reasoning_tokens=320), "Six times seven.42", 3, True),
        ("late_input", Usage(71, 2, cache_read_tokens=64), "Late", 1, False),
        ("citations", Usage(610, 24), "Grass is green.", 1, True),
        ("error_in_stream", None, "Half", 1, False),
    ],
)
def test_a_recorded_stream_is_metered(name: str, usage: Usage | None, text: str, deltas: int, hidden: bool) -> None:
    meter = meter_of()
    passed(meter, answer_of(f"{name}.sse"))
    assert meter.usage == usage
    assert meter.visible.texts == [text]
    assert (meter.visible.deltas, meter.visible.text_bytes) == (deltas, len(text.encode()))
    assert meter.visible.has_hidden is hidden
    assert meter.is_complete is (name != "error_in_stream")
    assert meter.error_seen is (name == "error_in_stream")
    assert not meter.has_unread


@st.composite
def cut_up(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    raw = answer_of(draw(st.sampled_from(STREAMS))).replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))
    ends = [at + shift for at in range(len(raw)) if raw[at : at + 1] in (b"\r", b"\n") for shift in (0, 1)]
    cuts = sorted(set(draw(st.lists(st.sampled_from(ends) | st.integers(0, len(raw)), max_size=30))))
    return raw, [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@given(cut_up())
def test_any_chunks_pass_unaltered_and_meter_the_same(stream: tuple[bytes, list[bytes]]) -> None:
    """Invariant 17."""
    raw, chunks = stream
    whole, pieces = meter_of(), meter_of()
    assert passed(whole, raw) == raw
    assert b"".join(pieces.feed(chunk) for chunk in chunks) + pieces.finish() == raw
    assert (pieces.usage, pieces.visible, pieces.is_complete) == (whole.usage, whole.visible, whole.is_complete)
    assert pieces.error_seen == whole.error_seen


@pytest.mark.parametrize("name", STREAMS)
def test_byte_by_byte_an_event_passes_with_its_last_byte(name: str) -> None:
    meter, raw = meter_of(), answer_of(name)
    out = [meter.feed(raw[at : at + 1]) for at in range(len(raw))]
    assert b"".join(out) == raw
    assert all(piece == b"" or piece.endswith(b"\n\n") for piece in out)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data: {}\n\n", b"data: [1]\n\n", b"data: 5\n\n"])))
def test_any_bytes_at_all_pass_and_raise_nothing(chunks: list[bytes]) -> None:
    meter = meter_of()
    assert b"".join(meter.feed(chunk) for chunk in chunks) + meter.finish() == b"".join(chunks)


TYPES = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
odd = st.recursive(
    st.none() | st.integers(-1, 3) | st.sampled_from(["x", "text", "text_delta", "thinking"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "text", "usage", "output_tokens", "stop_reason"]), inner, max_size=3)
    ),
    max_leaves=6,
)
odd_events = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | odd},
    optional=dict.fromkeys(("message", "index", "delta", "content_block", "usage", "error"), odd),
)


@given(st.lists(odd_events, max_size=5))
def test_an_event_of_any_shape_raises_nothing_and_can_be_cut(events: list[dict[str, Json]]) -> None:
    meter = meter_of()
    for event in events:
        meter.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert events_in(meter.cut(CUT_USAGE))[-1] == {"type": "message_stop"}


def test_the_output_that_is_said_at_the_beginning_is_not_final() -> None:
    meter = meter_of()
    meter.feed(answer_of("plain.sse").partition(b"event: message_delta")[0])
    assert meter.usage is None
    meter.feed(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert meter.is_complete
    assert meter.usage is None


def test_usage_that_still_runs_is_not_final() -> None:
    meter = meter_of()
    meter.feed(b'data: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n')
    meter.feed(b'data: {"type":"message_delta","delta":{"stop_reason":null},"usage":{"output_tokens":3}}\n\n')
    assert meter.usage is None
    meter.feed(b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}\n\n')
    assert meter.usage == Usage(5, 9)
    assert not meter.is_complete


@pytest.mark.parametrize("usage", [b"null", b"{}", b'{"output_tokens":null}', b'{"output_tokens":-1}', b'"x"'])
def test_an_end_without_a_readable_count_has_no_usage(usage: bytes) -> None:
    meter = meter_of()
    meter.feed(b'data: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n')
    meter.feed(b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":' + usage + b"}\n\n")
    meter.feed(b'data: {"type":"message_stop"}\n\n')
    assert meter.usage is None


@pytest.mark.parametrize(
    ("thinking", "hidden"), [(None, False), ({"type": "disabled"}, False), ({"type": "adaptive"}, True)]
)
def test_thinking_that_was_asked_for_is_hidden_from_the_start(thinking: Json, hidden: bool) -> None:
    assert meter_of(thinking=thinking).visible.has_hidden is hidden


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "E"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "name": "x"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "E"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "something_new"}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens_details": {"thinking_tokens": 3}}},
    ],
)
def test_output_that_is_not_shown_is_noticed(event: Json) -> None:
    meter = meter_of()
    meter.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert meter.visible.has_hidden


def test_what_a_block_holds_as_it_begins_is_shown() -> None:
    meter = meter_of()
    block: Json = {"type": "tool_use", "name": "f", "input": {"a": 1}}
    meter.feed(b"data: " + json.dumps({"type": "content_block_start", "content_block": block}).encode() + b"\n\n")
    assert meter.visible.texts == ['f{"a":1}']


@pytest.mark.parametrize("event", [b'{"type":"error"}', b'{"error":{"message":"x"}}'])
def test_an_error_is_seen_in_either_form(event: bytes) -> None:
    meter = meter_of()
    meter.feed(b"data: " + event + b"\n\n")
    assert meter.error_seen


def test_an_event_that_is_no_json_passes_and_is_marked() -> None:
    meter = meter_of()
    assert meter.feed(b"data: oops\n\n") == b"data: oops\n\n"
    assert meter.has_unread


def test_an_end_in_openais_words_is_no_unread_event() -> None:
    meter = meter_of()
    passed(meter, answer_of("plain.sse") + b"data: [DONE]\n\n")
    assert not meter.has_unread


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1 << 24])
def test_an_event_beyond_the_maximum_passes_unread_and_is_marked(chunk_bytes: int) -> None:
    meter = meter_of()
    raw = b'data: {"type":"ping"}\n\ndata: "' + b"x" * EVENT_BYTES_MAX + b'"\n\n' + answer_of("plain.sse")
    out = b"".join(meter.feed(raw[at : at + chunk_bytes]) for at in range(0, len(raw), chunk_bytes))
    assert out + meter.finish() == raw
    assert meter.has_unread
    assert meter.usage is None
    assert meter.cut(CUT_USAGE).startswith(b"\n\nevent: ")


def test_the_last_event_is_read_even_without_its_end() -> None:
    meter, raw = meter_of(), answer_of("plain.sse").rstrip()
    assert passed(meter, raw) == raw
    assert meter.is_complete


def cut_after(name: str, marker: bytes) -> tuple[bytes, bytes]:
    """Feed a recording up to and with a marker, which may be in the middle of an event; then cut."""
    meter = meter_of()
    before, found, _ = answer_of(name).partition(marker)
    assert found
    return meter.feed(before + found), meter.cut(CUT_USAGE)


def test_a_cut_ends_the_stream_in_its_own_words() -> None:
    out, end = cut_after("tools_cached.sse", b'Oslo\\"')
    assert out.endswith(b"\n\n")
    assert b"Oslo" not in out
    assert events_in(end) == [
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
    ]


def test_a_cut_between_blocks_ends_no_block() -> None:
    _, end = cut_after("plain.sse", b'"content_block_stop","index":0}\n\n')
    assert [event["type"] for event in events_in(end)] == ["message_delta", "message_stop"]


def test_a_cut_before_the_first_event_makes_a_beginning() -> None:
    start, *rest = events_in(meter_of().cut(CUT_USAGE))
    assert [event["type"] for event in rest] == ["message_delta", "message_stop"]
    message = start["message"]
    assert isinstance(message, dict)
    assert (message["model"], message["role"], message["content"], message["stop_reason"]) == (
        "smart",
        "assistant",
        [],
        None,
    )
    assert message["usage"] == {
        "input_tokens": 30,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 40,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
        "output_tokens": 0,
    }


def test_a_cut_after_the_reason_repeats_nothing() -> None:
    _, end = cut_after("plain.sse", b'"output_tokens":15}}\n\n')
    assert events_in(end) == [{"type": "message_stop"}]


def test_nothing_is_added_after_the_streams_own_end() -> None:
    meter = meter_of()
    passed(meter, answer_of("plain.sse"))
    assert meter.cut(CUT_USAGE) == b""
    assert meter_of().cut(CUT_USAGE) != b""


def sdk_reading(raw: bytes) -> anthropic.Anthropic:
    """The vendor's own client, to whom every call is answered with these bytes."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=raw, request=request)

    transport = httpx2.MockTransport(answer)
    return anthropic.Anthropic(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))


def sdk_message(raw: bytes) -> anthropic.types.Message:
    with (
        sdk_reading(raw) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        return stream.get_final_message()


def ends_of_events(name: str) -> Iterator[int]:
    raw = answer_of(name)
    yield 0
    at = raw.find(b"\n\n")
    while at >= 0:
        yield at + 2
        at = raw.find(b"\n\n", at + 2)


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("bytes_inside", [0, 9])
def test_the_vendors_sdk_accepts_a_stream_that_is_cut_anywhere(name: str, bytes_inside: int) -> None:
    raw = answer_of(name)
    whole = sdk_message(raw)
    for at in ends_of_events(name):
        meter = meter_of()
        out = meter.feed(raw[: at + bytes_inside])
        is_ended = b"event: message_delta" in out
        message = sdk_message(out + meter.cut(CUT_USAGE))
        assert message.stop_reason == (whole.stop_reason if is_ended else "max_tokens")
        assert message.usage.output_tokens == (whole.usage.output_tokens if is_ended else CUT_USAGE.output_tokens)
        assert [block.type for block in message.content] == [
            block.type for block in whole.content[: len(message.content)]
        ]
        assert meter.is_complete


def test_the_vendors_sdk_reads_what_the_meter_reads() -> None:
    message = sdk_message(answer_of("tools_cached.sse"))
    meter = meter_of()
    passed(meter, answer_of("tools_cached.sse"))
    assert meter.usage is not None
    usage = message.usage
    assert meter.usage.output_tokens == usage.output_tokens
    cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    assert meter.usage.input_tokens == usage.input_tokens + cached


def test_the_vendors_sdk_raises_a_refusal_as_its_own_error() -> None:
    refusal = AnthropicMessages().refuse(Deny(Code.BUDGET_EXCEEDED, "feature day limit: $0 left"))

    calls: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        calls.append(request)
        return httpx2.Response(refusal.status, headers=list(refusal.headers), content=refusal.body, request=request)

    transport = httpx2.MockTransport(answer)
    client = anthropic.Anthropic(api_key="k", max_retries=2, http_client=httpx2.Client(transport=transport))
    with client, pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    assert (raised.value.status_code, raised.value.type) == (402, "billing_error")
    assert raised.value.error_code == "budget_exceeded"
    assert len(calls) == 1
