from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import chat_call, refused

from spendfuse.core.calls import Call, MediaKind
from spendfuse.wire.dialect import WireTarget
from spendfuse.wire.fields import Treatment
from spendfuse.wire.json_body import Json, JsonObject, read_object, write
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_fields import CHAT_FIELDS
from spendfuse.wire.translate.chat_over_messages import ChatOverMessages
from spendfuse.wire.translate.chat_to_messages import FIELDS_BYTES, IMAGE_BYTES, OUTPUT_TOKENS_DEFAULT

PNG = "data:image/png;base64,iVBORw0KGgo="
TARGET = WireTarget("claude-sonnet-4-5", cap_field="max_tokens")
EXCHANGE = ChatOverMessages(now_s=lambda: 1_700_000_000)


def carried(call: Call) -> Call:
    found = EXCHANGE.carry(call)
    assert isinstance(found, Call), found
    return found


def sent(cap: int | None = 64, /, **fields: Json) -> JsonObject:
    """What goes up of a small chat request with these fields."""
    return read_object(EXCHANGE.render(carried(chat_call(**fields)), TARGET, cap=cap))


def user(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": list(parts)}]


def image(url: str, **more: Json) -> JsonObject:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def test_a_small_call_says_only_what_it_said() -> None:
    assert sent() == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_a_conversation_goes_up_in_order_behind_its_system_texts() -> None:
    body = sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": "Anyone?"},
            {"role": "assistant", "content": "Yes", "refusal": None, "tool_calls": None, "annotations": []},
            {"role": "user", "content": [{"type": "text", "text": "Good"}, {"type": "text", "text": "bye"}]},
        ]
    )
    assert body["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    assert body["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "Anyone?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": [{"type": "text", "text": "Good"}, {"type": "text", "text": "bye"}]},
    ]


def test_an_empty_system_text_says_nothing() -> None:
    assert "system" not in sent(messages=[{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": []}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),
        ({"top_p": 1}, {}),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}),
        ({"user": "u1", "metadata": {"user_id": "u2", "feature": "search"}}, {"metadata": {"user_id": "u2"}}),
        ({"metadata": {"feature": "search", "team": "blue"}}, {}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"stream": False}, {}),
    ],
)
def test_a_field_is_said_in_the_vendors_words(fields: dict[str, Json], expected: JsonObject) -> None:
    assert sent(**fields) == sent() | expected


def test_images_and_what_is_to_be_cached_go_along() -> None:
    body = sent(
        messages=user(
            {"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            image(PNG, detail="auto"),
            image("data:image/JPG;base64,/9j/"),
            {**image("HTTPS://example.com/a.png"), "cache_control": {"type": "ephemeral"}},
            {"type": "image_url", "image_url": PNG},
        )
    )
    png: Json = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert body["messages"] == user(
        {"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image", "source": png},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}},
        {
            "type": "image",
            "source": {"type": "url", "url": "HTTPS://example.com/a.png"},
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "image", "source": png},
    )


def test_what_a_quote_rests_on_stays() -> None:
    call = chat_call(
        messages=user(image(PNG, detail="high"), image("https://e.org/a.png")),
        metadata={"team": "blue"},
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=9,
    )
    found = carried(call)
    assert [one.kind for one in found.content.media] == [MediaKind.IMAGE]
    assert found.content.references == 1
    assert (found.model, found.cap, found.operation) == (call.model, 9, call.operation)
    assert found.claimed == {"team": "blue"}
    assert found.wants_usage_chunk
    assert found.cache_write == call.cache_write


@pytest.mark.parametrize(
    ("asked", "cap", "expected"),
    [
        ({}, 7, 7),
        ({"max_tokens": 50}, 7, 7),
        ({"max_completion_tokens": 50}, None, 50),
        ({}, None, OUTPUT_TOKENS_DEFAULT),
    ],
)
def test_the_vendor_always_gets_a_cap(asked: dict[str, Json], cap: int | None, expected: int) -> None:
    body = sent(cap, **asked)
    assert {name: value for name, value in body.items() if name.startswith("max_")} == {"max_tokens": expected}


SAYS_NOTHING: list[dict[str, Json]] = [
    {"n": 1},
    {"store": False},
    {"logprobs": False, "top_logprobs": 0},
    {"presence_penalty": 0, "frequency_penalty": 0.0},
    {"parallel_tool_calls": True},
    {"tools": [], "functions": []},
    {"logit_bias": {}},
    {"modalities": ["text"]},
    {"response_format": {"type": "text"}},
    {"service_tier": "auto"},
    {"stream_options": {"include_obfuscation": False}},
    *({field.name: False} for field in CHAT_FIELDS if field.treatment is Treatment.REFUSED),
    *({field.name: None} for field in CHAT_FIELDS if field.name not in ("model", "messages")),
    {"never_heard_of": None},
]


@pytest.mark.parametrize("fields", SAYS_NOTHING, ids=str)
def test_a_value_that_asks_for_nothing_passes_as_nothing(fields: dict[str, Json]) -> None:
    assert sent(**fields) == sent()


FUNCTION: Json = {"type": "function", "function": {"name": "f"}}
REFUSED: list[tuple[str, Json]] = [
    ("tools", [FUNCTION]),
    ("tool_choice", "auto"),
    ("functions", [{"name": "f"}]),
    ("function_call", "auto"),
    ("response_format", {"type": "json_object"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
    ("n", 2),
    ("seed", 7),
    ("logit_bias", {"1": 1}),
    ("logprobs", True),
    ("top_logprobs", 3),
    ("presence_penalty", 0.5),
    ("frequency_penalty", -1),
    ("reasoning_effort", "low"),
    ("verbosity", "low"),
    ("thinking", {"type": "enabled", "budget_tokens": 2_000}),
    ("reasoning", {"max_tokens": 5}),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "alloy"}),
    ("service_tier", "flex"),
    ("store", True),
    ("top_k", 5),
    ("prompt_cache_key", "k"),
    ("safety_identifier", "s"),
    ("never_heard_of", 1),
    ("never_heard_of", False),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_has_no_words_there_is_refused_by_name(name: str, value: Json) -> None:
    deny = refused(EXCHANGE.carry(chat_call(**{name: value})))
    assert deny.param == name
    assert deny.message.startswith(f"`{name}` cannot be carried to a provider that speaks Anthropic yet")


def test_every_known_field_is_carried_or_refused_or_says_nothing() -> None:
    """A field that joins the table has to be thought of here."""
    said = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "stream"}
    said |= {"stream_options", "user", "metadata"}
    for field in CHAT_FIELDS:
        if field.name not in said and field.treatment is not Treatment.REFUSED:
            call = chat_call()
            cast("JsonObject", call.body)[field.name] = {"anything": "at all"}
            assert refused(EXCHANGE.carry(call)).param == field.name


@pytest.mark.parametrize("name", ["temperature", "top_p"])
@pytest.mark.parametrize("value", [1.7, -0.1, "0.5", True])
def test_a_number_outside_the_vendors_range_is_refused(name: str, value: Json) -> None:
    deny = refused(EXCHANGE.carry(chat_call(**{name: value})))
    assert deny.param == name
    assert "from 0 to 1" in deny.message


MESSAGES: list[tuple[str, JsonObject]] = [
    ("messages[1].role", {"role": "system", "content": "late"}),
    ("messages[1].role", {"role": "developer", "content": "late"}),
    ("messages[1].role", {"role": "tool", "content": "x"}),
    ("messages[1].tool_call_id", {"role": "tool", "tool_call_id": "c", "content": "x"}),
    ("messages[1].role", {"role": "function", "content": "x"}),
    ("messages[1].role", {"content": "x"}),
    ("messages[1].role", {"role": ["user"], "content": "x"}),
    ("messages[1].name", {"role": "user", "name": "ann", "content": "x"}),
    ("messages[1].name", {"role": "user", "name": [], "content": "x"}),
    ("messages[1].tool_calls", {"role": "assistant", "content": "x", "tool_calls": [FUNCTION]}),
    ("messages[1].refusal", {"role": "assistant", "content": "x", "refusal": "no"}),
    ("messages[1].audio", {"role": "assistant", "content": "x", "audio": {"id": "a"}}),
    ("messages[1].reasoning_content", {"role": "assistant", "content": "x", "reasoning_content": "hm"}),
    ("messages[1].content", {"role": "assistant", "content": None}),
    ("messages[1].content", {"role": "user"}),
    ("messages[1].content[0].text", {"role": "user", "content": [{"type": "text"}]}),
    ("messages[1].content[0].type", {"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}),
    ("messages[1].content[0].type", {"role": "user", "content": [{"type": "hologram"}]}),
    ("messages[1].content[0].type", {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}),
    (
        "messages[1].content[0].type",
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
    ),
    ("messages[1].content[0].type", {"role": "assistant", "content": [image(PNG)]}),
    ("messages[1].content[0].note", {"role": "user", "content": [{"type": "text", "text": "x", "note": "y"}]}),
    (
        "messages[1].content[0].cache_control",
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"ttl": 1.5}}]},
    ),
    ("messages[1].content[0].image_url.detail", {"role": "user", "content": [image(PNG, detail="low")]}),
    ("messages[1].content[0].image_url.note", {"role": "user", "content": [image(PNG, note="y")]}),
    ("messages[1].content[0].image_url.url", {"role": "user", "content": [image("gs://bucket/a.png")]}),
    ("messages[1].content[0].image_url.url", {"role": "user", "content": [image("data:image/bmp;base64,Qk0=")]}),
    ("messages[1].content[0].image_url.url", {"role": "user", "content": [image("data:;base64,Qk0=")]}),
]


@pytest.mark.parametrize(("param", "message"), MESSAGES)
def test_a_message_that_cannot_be_said_is_refused_by_its_place(param: str, message: JsonObject) -> None:
    deny = refused(EXCHANGE.carry(chat_call(messages=[{"role": "user", "content": "Hi"}, message])))
    assert deny.param == param
    assert param in deny.message


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("stop", {"stop": 5}),
        ("stop", {"stop": ["a", 5]}),
        ("stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": True}}),
        ("stream_options.x", {"stream_options": {"x": 1}}),
        ("messages", {"messages": [{"role": "system", "content": "Only this"}]}),
        ("messages[0].content[0].type", {"messages": [{"role": "system", "content": [image(PNG)]}]}),
    ],
)
def test_other_things_without_words_are_refused_too(param: str, fields: dict[str, Json]) -> None:
    assert refused(EXCHANGE.carry(chat_call(**fields))).param == param


texts = st.text(max_size=8) | st.text('"\\\n\t\x00\x1f\x7fé世😀', max_size=8)
controls = st.just({"type": "ephemeral"}) | st.just({"type": "ephemeral", "ttl": "1h"})
text_parts = st.fixed_dictionaries({"type": st.just("text"), "text": texts}, optional={"cache_control": controls})
urls = st.sampled_from([PNG, "data:image/jpg;base64,/9j/", "http://e", "https://e.org/世.png"])
images = st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": urls | st.fixed_dictionaries({"url": urls})},
    optional={"cache_control": controls},
)
odd = st.sampled_from([None, None, "x"])
user_messages = st.fixed_dictionaries(
    {"role": st.just("user"), "content": texts | st.lists(text_parts | images, max_size=3)}, optional={"name": odd}
)
systems = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer"]), "content": texts | st.lists(text_parts, max_size=2)}
)
turns = user_messages | st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts | st.lists(text_parts, max_size=2)}
)
conversations = st.tuples(
    st.lists(systems, max_size=2), st.lists(turns, min_size=1, max_size=4), st.just([]) | st.lists(systems, max_size=1)
).map(lambda parts: [message for part in parts for message in part])
shares = st.sampled_from([0, 1, 0.5, 1e-5, 5e-324, 0.30000000000000004])
requests = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": conversations},
    optional={
        "temperature": shares,
        "top_p": shares,
        "stop": texts | st.lists(texts, max_size=2),
        "stream": st.booleans(),
        "user": st.text("ab", min_size=1, max_size=4),
        "never_heard_of": st.none(),
        "seed": st.sampled_from([None, None, 1]),
    },
)


def strings_in(value: Json) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for one in inner for text in strings_in(one)]


def said_by(message: JsonObject) -> list[str]:
    """The texts and URLs of a message."""
    content = message["content"]
    if isinstance(content, str):
        return [content]
    assert isinstance(content, list)
    parts = [one for one in content if isinstance(one, dict)]
    return [text for part in parts for text in strings_in(part.get("text", part.get("image_url")))]


@pytest.mark.parametrize("url", ["data:image/jpg;base64,/9j/", "http://e", PNG])
def test_many_images_of_few_bytes_are_within_the_bound(url: str) -> None:
    part: Json = {"type": "image_url", "image_url": url}
    found = carried(chat_call(messages=user(*[part] * 40)))
    raw = EXCHANGE.render(found, WireTarget("m"), cap=2**31)
    assert len(raw) - sum(len(one.base64) for one in found.content.media) <= found.content.text_bytes


@given(requests)
def test_all_text_of_a_call_that_is_carried_goes_up_within_its_bound(body: JsonObject) -> None:
    """Sizes are those of the body as it goes up, less media and less the model's name, which nobody counts."""
    call = OpenAIChat().parse(write(body))
    assert isinstance(call, Call), call
    found = EXCHANGE.carry(call)
    if not isinstance(found, Call):
        assert refused(found).param
        return
    raw = EXCHANGE.render(found, WireTarget("m", cap_field="max_tokens"), cap=2**31)
    up = strings_in(read_object(raw))
    messages = body["messages"]
    assert isinstance(messages, list)
    said = [text for one in messages if isinstance(one, dict) for text in said_by(one)]
    said += strings_in(body.get("stop", [])) + strings_in(body.get("user", []))
    for text in said:
        data = text.partition(",")[2] if text.startswith("data:") else text
        assert data in up or data == "", data
    media_bytes = sum(len(one.base64) for one in found.content.media)
    assert len(raw) - media_bytes <= found.content.text_bytes
    images = len(found.content.media) + found.content.references
    assert found.content.text_bytes == call.content.text_bytes + FIELDS_BYTES + images * IMAGE_BYTES
