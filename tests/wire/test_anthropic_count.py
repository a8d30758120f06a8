import json

import pytest
from anthropic_recorded import answer_of, messages_body, messages_call
from recorded import refused

from spendfuse.core.calls import CacheWrite, Call, Operation
from spendfuse.core.usage import NOTHING, Exact
from spendfuse.wire.anthropic_count import AnthropicCounter, AnthropicCountTokens
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.dialect import WireTarget
from spendfuse.wire.json_body import Json, read_object, write

TARGET = WireTarget("claude-sonnet-4-5")
SCHEMA: Json = {"type": "json_schema", "schema": {"type": "object"}}


def counted(**fields: Json) -> dict[str, Json]:
    raw = AnthropicCounter().render(messages_call(**fields), TARGET)
    assert raw is not None
    return read_object(raw)


def test_only_what_the_vendor_counts_is_sent_to_be_counted() -> None:
    kept: dict[str, Json] = {
        "messages": [{"role": "user", "content": "x"}],
        "system": "Be brief.",
        "tools": [{"name": "f", "input_schema": {}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 1_024},
        "output_config": {"effort": "low", "format": SCHEMA},
        "cache_control": {"type": "ephemeral"},
    }
    left_out: dict[str, Json] = {
        "stream": True,
        "temperature": 0.1,
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "stop_sequences": ["a"],
        "context_management": {"edits": []},
    }
    assert counted(**kept, **left_out) == {**kept, "model": "claude-sonnet-4-5"}


def test_an_older_name_is_counted_under_the_newer_one() -> None:
    assert counted(output_format=SCHEMA)["output_config"] == {"format": SCHEMA}
    assert counted(output_format=SCHEMA, output_config={"effort": "low"})["output_config"] == {
        "format": SCHEMA,
        "effort": "low",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "unheard_of"}]}]},
        {"a_new_field": "it may be billed"},
    ],
)
def test_a_count_that_would_bound_nothing_is_not_asked_for(fields: dict[str, Json]) -> None:
    assert AnthropicCounter().render(messages_call(**fields), TARGET) is None


def test_inline_media_is_counted_by_the_vendor() -> None:
    image: Json = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    message: Json = {"role": "user", "content": [image]}
    assert counted(messages=[message])["messages"] == [message]


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (answer_of("count.json"), 2_095),
        (answer_of("error.json"), None),
        (b'{"input_tokens":0}', None),
        (b'{"input_tokens":-5}', None),
        (b'{"input_tokens":true}', None),
        (b'{"input_tokens":"7"}', None),
        (b'{"input_tokens":1e3}', None),
        (b'{"input_tokens":99999999999999999}', None),
        (b"[2095]", None),
        (b"", None),
    ],
)
def test_a_count_is_read_or_there_is_none(body: bytes, tokens: int | None) -> None:
    assert AnthropicCounter().read(body) == tokens
    assert AnthropicCountTokens().metered(body) == (None if tokens is None else Exact(NOTHING))


def test_messages_are_counted_where_the_vendor_counts() -> None:
    counter = AnthropicMessages().counter
    assert counter is not None
    assert counter.operation is Operation.COUNT_TOKENS
    assert not counter.operation.is_billed


def test_a_clients_own_count_is_a_call_without_output_or_cap() -> None:
    dialect = AnthropicCountTokens()
    body = write({"model": "smart", "messages": [{"role": "user", "content": "x"}], "metadata": {"user_id": "u"}})
    call = dialect.parse(body)
    assert isinstance(call, Call)
    assert (call.operation, call.model, call.has_output) == (Operation.COUNT_TOKENS, "smart", False)
    assert (call.cap, call.stream, call.cache_write, call.claimed) == (None, False, CacheWrite.NONE, {"user": "u"})
    assert read_object(dialect.render(call, TARGET, cap=None)) == {
        "model": "claude-sonnet-4-5",
        "messages": [{"role": "user", "content": "x"}],
    }
    assert dialect.fingerprint(call) == ""
    assert dialect.counter is None
    assert dialect.read(answer_of("count.json")).told == answer_of("count.json")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"messages": []}, "messages"),
        ({"model": ""}, "model"),
        ({"tools": [{"type": "web_search_20250305"}]}, "tools[0].type"),
        ({"thinking": 5}, "thinking"),
        ({"output_config": 5}, "output_config"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
    ],
)
def test_a_count_is_read_as_strictly_as_a_call(fields: dict[str, Json], param: str) -> None:
    assert refused(AnthropicCountTokens().parse(messages_body(**fields))).param == param


def test_a_refused_count_is_an_error_of_the_vendors_shape() -> None:
    answer = AnthropicCountTokens().refuse(refused(AnthropicCountTokens().parse(b"{")))
    assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"
