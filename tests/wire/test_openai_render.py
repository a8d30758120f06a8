import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import chat_body, chat_call, recording

from spendfuse.core.calls import Call
from spendfuse.wire.dialect import WireTarget
from spendfuse.wire.json_body import Json, read_object, write
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_embeddings import OpenAIEmbeddings

PLAIN = WireTarget("gpt-4o-mini")


def rendered(call: Call, target: WireTarget = PLAIN, *, cap: int | None = None) -> dict[str, Json]:
    return read_object(OpenAIChat().render(call, target, cap=cap))


def test_only_the_documented_fields_change() -> None:
    raw = recording("request_with_everything.json")
    call = OpenAIChat().parse(raw)
    assert isinstance(call, Call)
    sent = rendered(call, WireTarget("gpt-4o-mini", pins_service_tier=True), cap=64)
    expected = json.loads(raw) | {
        "model": "gpt-4o-mini",
        "max_completion_tokens": 64,
        "stream_options": {"include_obfuscation": False, "include_usage": True},
        "service_tier": "default",
    }
    assert sent == expected


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 9}, {"max_completion_tokens": 9}, {"max_tokens": None}])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_reserved_cap_goes_up_under_the_one_name_that_the_target_obeys(asked: dict[str, Json], field: str) -> None:
    sent = rendered(chat_call(**asked), WireTarget("m", cap_field=field), cap=7)
    assert {name: sent[name] for name in sent if name.startswith("max_")} == {field: 7}


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 9}])
def test_without_a_cap_to_send_the_client_keeps_its_own(asked: dict[str, Json]) -> None:
    sent = rendered(chat_call(**asked))
    assert {name: sent[name] for name in sent if name.startswith("max_")} == asked


def test_usage_is_asked_for_on_every_stream() -> None:
    assert rendered(chat_call(stream=True))["stream_options"] == {"include_usage": True}
    call = chat_call(stream=True, stream_options={"include_usage": False, "x": 1})
    assert rendered(call)["stream_options"] == {"include_usage": True, "x": 1}


def test_a_target_that_refuses_stream_options_gets_none() -> None:
    call = chat_call(stream=True, stream_options={"include_usage": True})
    assert "stream_options" not in rendered(call, WireTarget("m", takes_stream_options=False))


def test_a_call_that_does_not_stream_keeps_its_options() -> None:
    assert "stream_options" not in rendered(chat_call())


@pytest.mark.parametrize(
    ("asked", "pins", "sent"),
    [
        (None, False, None),
        (None, True, "default"),
        ("auto", True, "default"),
        ("default", True, "default"),
        ("auto", False, "auto"),
        ("flex", True, "flex"),
        ("priority", False, "priority"),
    ],
)
def test_the_standard_tier_is_asked_for_where_a_dearer_one_could_be_the_default(
    asked: str | None, pins: bool, sent: str | None
) -> None:
    fields: dict[str, Json] = {} if asked is None else {"service_tier": asked}
    assert rendered(chat_call(**fields), WireTarget("m", pins_service_tier=pins)).get("service_tier") == sent


def test_rendering_leaves_the_call_as_it_was() -> None:
    call = chat_call(stream=True, stream_options={"a": 1}, max_tokens=5)
    first = OpenAIChat().render(call, PLAIN, cap=3)
    assert OpenAIChat().render(call, PLAIN, cap=3) == first
    assert rendered(call)["max_tokens"] == 5


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\é', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=3), values), st.none() | st.integers(1, 2**40))
def test_what_goes_up_means_what_came_in(fields: dict[str, Json], cap: int | None) -> None:
    body = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], **fields}
    call = OpenAIChat().parse(json.dumps(body).encode())
    assert isinstance(call, Call)
    expected = {**body, "model": "gpt-4o-mini"} | ({} if cap is None else {"max_completion_tokens": cap})
    assert rendered(call, cap=cap) == expected


def fingerprint(raw: bytes) -> str:
    call = OpenAIChat().parse(raw)
    assert isinstance(call, Call)
    return OpenAIChat().fingerprint(call)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u"},
        {"metadata": {"run_id": "1"}},
        {"safety_identifier": "s"},
        {"prompt_cache_key": "k"},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_ids_and_metadata_do_not_change_a_fingerprint(fields: dict[str, Json]) -> None:
    assert fingerprint(chat_body(**fields)) == fingerprint(chat_body())


@pytest.mark.parametrize("fields", [{"seed": 1}, {"temperature": 0}, {"model": "other"}, {"max_tokens": 5}, {"n": 2}])
def test_anything_else_changes_a_fingerprint(fields: dict[str, Json]) -> None:
    assert fingerprint(chat_body(**fields)) != fingerprint(chat_body())


def test_the_order_of_keys_and_white_space_do_not_change_a_fingerprint() -> None:
    body = json.loads(recording("request_with_everything.json"))
    turned = {name: body[name] for name in reversed(body)}
    assert fingerprint(write(turned)) == fingerprint(recording("request_with_everything.json"))


def test_embeddings_change_the_model_only_and_have_no_fingerprint() -> None:
    dialect = OpenAIEmbeddings()
    body: dict[str, Json] = {"model": "small", "input": [[1, 2]], "dimensions": 8, "encoding_format": "base64"}
    call = dialect.parse(write(body))
    assert isinstance(call, Call)
    assert read_object(dialect.render(call, WireTarget("t-3"), cap=None)) == {**body, "model": "t-3"}
    assert dialect.fingerprint(call) == ""
