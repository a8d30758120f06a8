import pytest
from anthropic_recorded import answer_of, messages_body, messages_call
from hypothesis import given
from hypothesis import strategies as st
from recorded import refused

from spendfuse.core.calls import CacheWrite, Call, Operation
from spendfuse.core.refusals import Deny
from spendfuse.wire.anthropic_count import AnthropicCountTokens
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.dialect import Dialect, Exchange, WireTarget
from spendfuse.wire.json_body import Json, read_object, write

DIALECTS: list[Dialect] = [AnthropicMessages(), AnthropicCountTokens()]
EXCHANGES: list[Exchange] = [AnthropicMessages(), AnthropicCountTokens()]


def test_each_is_the_dialect_and_the_exchange_of_its_own_path() -> None:
    for paths in (DIALECTS, EXCHANGES):
        assert [one.operation for one in paths] == [Operation.MESSAGES, Operation.COUNT_TOKENS]


def test_a_full_request_is_read() -> None:
    call = AnthropicMessages().parse(answer_of("request_with_everything.json"))
    assert isinstance(call, Call), call
    assert (call.operation, call.model, call.cap, call.choices) == (Operation.MESSAGES, "smart", 700, 1)
    assert call.stream
    assert call.has_output
    assert call.is_structured
    assert (call.thinks, call.thinking_tokens) == (True, 300)
    assert call.cache_write is CacheWrite.SHORT
    assert call.service_tier is None
    assert call.claimed == {"user": "u-1", "feature": "search", "run": "r-9", "team": "blue"}


def test_the_smallest_request_asks_for_nothing_more() -> None:
    call = messages_call()
    assert (call.cap, call.stream, call.thinks, call.thinking_tokens) == (50, False, False, 0)
    assert (call.cache_write, call.is_structured, call.claimed) == (CacheWrite.NONE, False, {})


@pytest.mark.parametrize("cap", [None, -1, 0, "abc", "5", 5.0, 0.5, True, False, [5], {"a": 5}, ""])
def test_a_cap_that_is_no_integer_of_at_least_one_is_refused(cap: Json) -> None:
    deny = refused(AnthropicMessages().parse(messages_body(max_tokens=cap)))
    assert deny.message == f"`max_tokens` must be an integer of at least 1, got {write(cap).decode()}"
    assert deny.param == "max_tokens"


def test_a_request_without_a_cap_is_refused() -> None:
    body = write({"model": "m", "messages": [{"role": "user", "content": "x"}]})
    assert refused(AnthropicMessages().parse(body)).param == "max_tokens"


def test_a_cap_given_twice_is_refused() -> None:
    body = b'{"model":"m","messages":[{"content":"x"}],"max_tokens":1,"max_tokens":100000}'
    assert "appears twice" in refused(AnthropicMessages().parse(body)).message


@pytest.mark.parametrize("cap", [1, 700, 2**63])
def test_a_cap_is_read_however_large(cap: int) -> None:
    assert messages_call(max_tokens=cap).cap == cap


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 4}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": 5}]}, "messages[0].content"),
        ({"messages": [{"content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [{"content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"system": 5}, "system"),
        ({"system": {"type": "text"}}, "system"),
        ({"system": ["x"]}, "system[0]"),
        ({"stream": "true"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tools": ["search"]}, "tools[0]"),
        ({"thinking": "on"}, "thinking"),
        ({"thinking": {}}, "thinking.type"),
        ({"thinking": {"type": ["enabled"]}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": "5"}}, "thinking.budget_tokens"),
        ({"output_config": "x"}, "output_config"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
        ({"output_format": "json"}, "output_format"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"service_tier": "batch"}, "service_tier"),
        ({"service_tier": 1}, "service_tier"),
        ({"metadata": "u"}, "metadata"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"metadata": {"user_id": ""}}, "metadata.user_id"),
        ({"metadata": {"user_id": "a\nb"}}, "metadata.user_id"),
        ({"context_management": []}, "context_management"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0].type"),
        ({"context_management": {"edits": [{"type": ["clear_"]}]}}, "context_management.edits[0].type"),
        ({"context_management": {"edits": [{}]}}, "context_management.edits[0].type"),
        ({"context_management": {"enabled": True}}, "context_management.enabled"),
    ],
)
def test_a_wrong_type_or_value_is_refused_by_name(fields: dict[str, Json], param: str) -> None:
    assert refused(AnthropicMessages().parse(messages_body(**fields))).param == param


@pytest.mark.parametrize(
    ("thinking", "thinks", "tokens"),
    [
        (None, False, 0),
        ({"type": "disabled"}, False, 0),
        ({"type": "adaptive"}, True, 0),
        ({"type": "adaptive", "display": "omitted"}, True, 0),
        ({"type": "enabled", "budget_tokens": 2_000}, True, 2_000),
        ({"type": "enabled"}, True, 0),
        ({"type": "between_tools"}, True, 0),
    ],
)
def test_thinking_and_its_budget_are_read(thinking: Json, thinks: bool, tokens: int) -> None:
    call = messages_call(thinking=thinking)
    assert (call.thinks, call.thinking_tokens) == (thinks, tokens)


@pytest.mark.parametrize("tier", [None, "auto", "standard_only"])
def test_the_standard_tiers_have_no_price_of_their_own(tier: str | None) -> None:
    assert messages_call(service_tier=tier).service_tier is None


@pytest.mark.parametrize(
    ("fields", "structured"),
    [
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, True),
        ({"output_config": {"effort": "low"}}, False),
        ({"output_config": {"format": None}}, False),
        ({"output_format": {"type": "json_schema", "schema": {}}}, True),
        ({"output_format": None}, False),
    ],
)
def test_structured_output_is_known(fields: dict[str, Json], structured: bool) -> None:
    assert messages_call(**fields).is_structured is structured


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, CacheWrite.NONE),
        ({"cache_control": {"type": "ephemeral"}}, CacheWrite.SHORT),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, CacheWrite.LONG),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, CacheWrite.SHORT),
        ({"tools": [{"name": "f", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, CacheWrite.LONG),
    ],
)
def test_what_is_to_be_cached_is_known(fields: dict[str, Json], kept: CacheWrite) -> None:
    assert messages_call(**fields).cache_write is kept


@pytest.mark.parametrize("kind", ["clear_tool_uses_20250919", "clear_thinking_20251015"])
def test_an_edit_that_only_clears_passes(kind: str) -> None:
    messages_call(context_management={"edits": [{"type": kind, "keep": "all"}]})
    messages_call(context_management={})


def test_a_null_user_is_no_user() -> None:
    assert messages_call(metadata={"user_id": None, "team": "blue"}).claimed == {"team": "blue"}


def test_a_user_longer_than_a_label_keeps_its_beginning_and_stays_apart_from_others() -> None:
    session = '{"device_id":"' + "a" * 64 + '","account_uuid":"","session_id":"57a121ec-f78c-48c3-a745-e3036a3ecc3'
    users = [messages_call(metadata={"user_id": f'{session}{at}"}}'}).claimed["user"] for at in range(3)]
    assert len(set(users)) == 3
    assert all(user.startswith(session[:100]) and len(user) == 128 for user in users)
    assert messages_call(metadata={"user_id": "é" * 200}).claimed["user"].startswith("é" * 55 + "#")
    assert messages_call(metadata={"user_id": "u" * 128}).claimed["user"] == "u" * 128


def test_the_user_goes_up_as_it_came() -> None:
    call = messages_call(metadata={"user_id": "u" * 200})
    assert read_object(AnthropicMessages().render(call, WireTarget("m"), cap=1))["metadata"] == {"user_id": "u" * 200}


@pytest.mark.parametrize(
    ("metadata", "sent"),
    [
        ({"user_id": "u", "feature": "search"}, {"user_id": "u"}),
        ({"user_id": "u"}, {"user_id": "u"}),
        ({"feature": "search"}, None),
        ({}, {}),
    ],
)
def test_labels_stay_here_but_for_the_one_that_the_vendor_takes(
    metadata: dict[str, Json], sent: dict[str, Json] | None
) -> None:
    body = read_object(AnthropicMessages().render(messages_call(metadata=metadata), WireTarget("m"), cap=1))
    assert body.get("metadata") == sent


def test_the_model_and_the_cap_are_set_and_nothing_else_but_labels() -> None:
    raw = answer_of("request_with_everything.json")
    call = AnthropicMessages().parse(raw)
    assert isinstance(call, Call)
    target = WireTarget("claude-sonnet-4-5", pins_service_tier=True, takes_stream_options=False)
    expected = read_object(raw) | {
        "model": "claude-sonnet-4-5",
        "max_tokens": 350,
        "metadata": {"user_id": "u-1"},
    }
    assert read_object(AnthropicMessages().render(call, target, cap=350)) == expected
    expected["max_tokens"] = 700
    assert read_object(AnthropicMessages().render(call, target, cap=None)) == expected


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"metadata": {"user_id": "a"}}, {"metadata": {"user_id": "b"}}, True),
        ({"diagnostics": {"previous_message_id": "a"}}, {}, True),
        ({"temperature": 0}, {"temperature": 1}, False),
        ({"system": "a"}, {"system": "b"}, False),
    ],
)
def test_a_fingerprint_is_equal_for_retries(one: dict[str, Json], other: dict[str, Json], equal: bool) -> None:
    dialect = AnthropicMessages()
    prints = [dialect.fingerprint(messages_call(**fields)) for fields in (one, other)]
    assert (prints[0] == prints[1]) is equal


def test_an_answer_and_an_error_pass_unaltered() -> None:
    dialect = AnthropicMessages()
    assert dialect.read(b"any").told == b"any"
    assert dialect.error(400, b"any") == b"any"
    call = messages_call()
    assert dialect.carry(call) is call


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.floats(allow_nan=False, allow_infinity=False) | st.just("x"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "source", "content", "data", "tool", "format", "edits"]), inner)
    ),
    max_leaves=8,
)
bodies = st.dictionaries(
    st.sampled_from(
        [
            *("stream", "tools", "system", "thinking", "output_config", "output_format", "metadata", "tool_choice"),
            *("service_tier", "max_tokens", "model", "context_management", "cache_control"),
        ]
    ),
    values,
)


@given(bodies, st.lists(st.dictionaries(st.sampled_from(["role", "content"]), values)) | values)
def test_every_json_object_is_either_read_or_refused(body: dict[str, Json], messages: Json) -> None:
    raw = write({"model": "m", "max_tokens": 5, **body, "messages": messages})
    call = AnthropicMessages().parse(raw)
    assert isinstance(call, Call | Deny)
    if isinstance(call, Call):
        assert 0 <= call.content.text_bytes <= len(raw)
        assert all(isinstance(text, str) for text in call.content.texts())
