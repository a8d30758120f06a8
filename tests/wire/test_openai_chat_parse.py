import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import chat_body, chat_call, recording, refused

from spendfuse.core.calls import Call, Operation
from spendfuse.core.refusals import Deny
from spendfuse.wire.json_body import Json, write
from spendfuse.wire.openai_chat import OpenAIChat


def test_a_full_request_is_read() -> None:
    call = OpenAIChat().parse(recording("request_with_everything.json"))
    assert isinstance(call, Call), call
    assert (call.operation, call.model, call.cap, call.choices) == (Operation.CHAT, "smart", 700, 2)
    assert call.stream
    assert not call.wants_usage_chunk
    assert call.is_structured
    assert call.has_output
    assert not call.output_audio
    assert call.service_tier is None
    assert call.claimed == {"user": "u-1", "organization": "acme", "feature": "search", "run": "r-9", "team": "blue"}


def test_the_smallest_request_has_no_cap_and_one_choice() -> None:
    call = chat_call()
    assert (call.cap, call.choices, call.stream, call.claimed) == (None, 1, False, {})


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("cap", [1, 700, 2**63])
def test_a_cap_is_read_under_either_name_however_large(name: str, cap: int) -> None:
    assert chat_call(**{name: cap}).cap == cap


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("cap", [-1, 0, "abc", "5", 5.0, 1e5, 0.5, True, False, [5], {"a": 5}, ""])
def test_a_cap_that_is_no_integer_of_at_least_one_is_refused_by_name(name: str, cap: Json) -> None:
    deny = refused(OpenAIChat().parse(chat_body(**{name: cap})))
    assert deny.message == f"`{name}` must be an integer of at least 1, got {write(cap).decode()}"
    assert deny.param == name


@pytest.mark.parametrize("cap", ["NaN", "Infinity", "1e400", "1" + "0" * 30, "01", "+5", "0x10"])
def test_a_cap_that_is_no_json_number_of_64_bit_is_refused(cap: str) -> None:
    body = f'{{"model":"m","messages":[{{"role":"user","content":"x"}}],"max_tokens":{cap}}}'.encode()
    refused(OpenAIChat().parse(body))


def test_two_caps_at_once_are_refused_even_when_equal() -> None:
    deny = refused(OpenAIChat().parse(chat_body(max_tokens=5, max_completion_tokens=5)))
    assert "both given" in deny.message


def test_a_null_cap_beside_another_is_no_cap() -> None:
    assert chat_call(max_tokens=None, max_completion_tokens=5).cap == 5


@pytest.mark.parametrize("cap_first", [True, False])
def test_a_cap_given_twice_under_one_name_is_refused(cap_first: bool) -> None:
    caps = '"max_tokens":1,"max_tokens":100000' if cap_first else '"max_tokens":100000,"max_tokens":1'
    deny = refused(OpenAIChat().parse(f'{{"model":"m","messages":[{{"content":"x"}}],{caps}}}'.encode()))
    assert deny.param == "max_tokens"
    assert "appears twice" in deny.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 4}, "model"),
        ({"model": ["m"]}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": "x"}, None]}, "messages[1]"),
        ({"messages": [{"content": 5}]}, "messages[0].content"),
        ({"messages": [{"content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [{"content": ["x"]}]}, "messages[0].content[0]"),
        ({"n": 50}, "n"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 2.0}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"tools": {}}, "tools"),
        ({"tools": ["search"]}, "tools[0]"),
        ({"tools": [{"type": "function"}, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": ["function"]}]}, "tools[0].type"),
        ({"tools": [{"google_search": {}}]}, "tools[0].type"),
        ({"functions": "f"}, "functions"),
        ({"response_format": "json"}, "response_format"),
        ({"modalities": "audio"}, "modalities"),
        ({"modalities": ["image"]}, "modalities"),
        ({"modalities": [["audio"]]}, "modalities"),
        ({"audio": "wav"}, "audio"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"service_tier": 1}, "service_tier"),
        ({"thinking": "on"}, "thinking"),
        ({"thinking": {"budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": "5"}}, "reasoning.max_tokens"),
    ],
)
def test_a_wrong_type_or_value_is_refused_by_name(fields: dict[str, Json], param: str) -> None:
    assert refused(OpenAIChat().parse(chat_body(**fields))).param == param


def test_the_most_choices_come_from_config() -> None:
    assert chat_call(OpenAIChat(n_max=50), n=50).choices == 50
    assert "from 1 to 8, got 50" in refused(OpenAIChat().parse(chat_body(n=50))).message


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"stream": True}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, False),
        ({"stream": True, "stream_options": None}, False),
        ({"stream": False, "stream_options": {"include_usage": True}}, False),
    ],
)
def test_whether_the_client_asked_for_usage_is_known(fields: dict[str, Json], asked: bool) -> None:
    assert chat_call(**fields).wants_usage_chunk is asked


@pytest.mark.parametrize(
    ("tier", "priced"), [(None, None), ("auto", None), ("default", None), ("flex", "flex"), ("priority", "priority")]
)
def test_a_tier_with_a_price_of_its_own_is_named(tier: str | None, priced: str | None) -> None:
    assert chat_call(service_tier=tier).service_tier == priced


@pytest.mark.parametrize(
    ("fields", "has_audio"),
    [
        ({"modalities": ["text"]}, False),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, True),
        ({"audio": {"voice": "alloy"}}, True),
        ({"modalities": None}, False),
    ],
)
def test_audio_output_is_known(fields: dict[str, Json], has_audio: bool) -> None:
    assert chat_call(**fields).output_audio is has_audio


@pytest.mark.parametrize("kind", ["json_schema", "json_object", "text"])
def test_structured_output_is_known(kind: str) -> None:
    assert chat_call(response_format={"type": kind}).is_structured is (kind != "text")


def test_a_thinking_budget_is_read() -> None:
    assert chat_call(thinking={"type": "enabled", "budget_tokens": 2_000}).thinking_tokens == 2_000
    assert chat_call(reasoning={"max_tokens": 300, "effort": None}).thinking_tokens == 300
    assert chat_call(thinking={"type": "enabled"}).thinking_tokens == 0


def test_web_search_passes_only_where_a_config_prices_it() -> None:
    body = chat_body(web_search_options={})
    assert refused(OpenAIChat().parse(body)).param == "web_search_options"
    assert isinstance(OpenAIChat(allows_web_search=True).parse(body), Call)


def test_an_unknown_field_passes() -> None:
    chat_call(top_k=5, some_new_field={"a": [1, None]})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.floats(allow_nan=False, allow_infinity=False) | st.just("x"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "url", "content", "function", "file", "image_url"]), inner)
    ),
    max_leaves=8,
)
bodies = st.dictionaries(
    st.sampled_from(
        [
            *("n", "stream", "stream_options", "tools", "functions", "response_format", "modalities", "audio", "user"),
            *("metadata", "service_tier", "max_tokens", "thinking", "reasoning", "model"),
        ]
    ),
    values,
)


@given(bodies, st.lists(st.dictionaries(st.sampled_from(["role", "content", "audio", "tool_calls"]), values)) | values)
def test_every_json_object_is_either_read_or_refused(body: dict[str, Json], messages: Json) -> None:
    raw = write({"model": "m", **body, "messages": messages})
    call = OpenAIChat().parse(raw)
    assert isinstance(call, Call | Deny)
    if isinstance(call, Call):
        assert 0 <= call.content.text_bytes <= len(raw)
        assert all(isinstance(text, str) for text in call.content.texts())
