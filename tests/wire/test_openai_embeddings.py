import pytest
from recorded import refused

from spendfuse.core.calls import Call, Operation
from spendfuse.wire.json_body import Json, write
from spendfuse.wire.openai_embeddings import OpenAIEmbeddings


def parsed(value: Json, **fields: Json) -> Call:
    call = OpenAIEmbeddings().parse(write({"model": "small", "input": value, **fields}))
    assert isinstance(call, Call), call
    return call


@pytest.mark.parametrize(("value", "texts"), [("one", ["one"]), (["one", "two"], ["one", "two"]), ("", [""])])
def test_texts_are_billed_as_input_and_nothing_as_output(value: Json, texts: list[str]) -> None:
    call = parsed(value, user="u", metadata={"feature": "search"})
    assert (call.operation, call.choices, call.has_output, call.stream) == (Operation.EMBEDDINGS, 1, False, False)
    assert call.content.texts() == texts
    assert call.content.token_ids == 0
    assert call.content.text_bytes == len(
        write({"model": "small", "input": value, "user": "u", "metadata": {"feature": "search"}})
    )
    assert call.claimed == {"user": "u", "feature": "search"}


@pytest.mark.parametrize(("value", "token_ids"), [([15339, 1917], 2), ([[15339, 1917], [1, 2, 3]], 5)])
def test_token_ids_are_counted_and_their_digits_are_no_text(value: Json, token_ids: int) -> None:
    content = parsed(value).content
    assert content.token_ids == token_ids
    assert content.texts() == []
    assert content.text_bytes == len(b'{"model":"small","input":}')


@pytest.mark.parametrize(
    "value", [None, [], [[]], [[1], []], 5, True, {"a": 1}, ["a", 1], [1, "a"], [1, 2.0], [True], [[1], "a"], [None]]
)
def test_any_other_input_is_refused(value: Json) -> None:
    assert refused(OpenAIEmbeddings().parse(write({"model": "small", "input": value}))).param == "input"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"input":"x"}', "model"),
        (b'{"model":"m"}', "input"),
        (b'{"model":"m","input":"x","input":"y"}', "input"),
        (b'{"model":"m","input":"x","stream":true}', "stream"),
        (b'{"model":"m","input":"x","user":5}', "user"),
        (b"[]", None),
    ],
)
def test_a_malformed_request_is_refused_by_name(body: bytes, param: str | None) -> None:
    assert refused(OpenAIEmbeddings().parse(body)).param == param


def test_null_and_false_fields_are_absent() -> None:
    parsed("x", stream=False, user=None, metadata=None)


def test_embeddings_never_stream() -> None:
    with pytest.raises(AssertionError, match="do not stream"):
        OpenAIEmbeddings().stream_meter(parsed("x"))
