from collections import Counter

import pytest
from fields_page import PAGE, page
from recorded import chat_body, chat_call, refused

from spendfuse.core.calls import Call
from spendfuse.wire.dialect import WireTarget
from spendfuse.wire.fields import Field, Treatment
from spendfuse.wire.json_body import Json, read_object, write
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_embeddings import OpenAIEmbeddings
from spendfuse.wire.openai_fields import CHAT_FIELDS, EMBEDDINGS_FIELDS


def names(fields: tuple[Field, ...], *treatments: Treatment) -> list[str]:
    return [field.name for field in fields if field.treatment in treatments]


def test_the_reference_page_says_what_the_code_does() -> None:
    assert PAGE.read_text() == page(), "run: python tests/wire/fields_page.py"


@pytest.mark.parametrize("fields", [CHAT_FIELDS, EMBEDDINGS_FIELDS])
def test_a_field_has_one_treatment(fields: tuple[Field, ...]) -> None:
    assert max(Counter(field.name for field in fields).values()) == 1


@pytest.mark.parametrize("name", names(CHAT_FIELDS, Treatment.REFUSED))
def test_a_refused_field_is_a_400_unless_null_or_false(name: str) -> None:
    value: Json = {"x": 1}
    deny = refused(OpenAIChat().parse(chat_body(**{name: value})))
    assert deny.param == name
    assert deny.message.startswith(f"`{name}` is refused: ")
    chat_call(**{name: None})
    chat_call(**{name: False})


@pytest.mark.parametrize("name", names(EMBEDDINGS_FIELDS, Treatment.REFUSED))
def test_a_refused_field_of_embeddings_is_a_400(name: str) -> None:
    body = write({"model": "m", "input": "x", name: {"x": 1}})
    assert refused(OpenAIEmbeddings().parse(body)).param == name


@pytest.mark.parametrize("name", names(CHAT_FIELDS, Treatment.PASSES))
def test_a_passing_field_goes_up_unaltered(name: str) -> None:
    call = OpenAIChat().parse(chat_body(**{name: True}))
    assert isinstance(call, Call)
    sent = read_object(OpenAIChat().render(call, WireTarget("m", pins_service_tier=True), cap=5))
    assert sent[name] is True
