"""The list of models, as clients of both APIs read it."""

import json

from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.dialect import Answer
from spendfuse.wire.models import models_answer


def _body(name: str, names: list[str]) -> dict[str, object]:
    answer = models_answer(name, names)
    assert isinstance(answer, Answer)
    assert answer.status == 200
    return json.loads(answer.body)


def test_models_are_listed_by_public_name_with_the_fields_of_both_apis() -> None:
    listed = _body("", ["smart", "gpt-4o"])
    data = listed["data"]
    assert isinstance(data, list)
    assert [one["id"] for one in data] == ["gpt-4o", "smart"]
    assert data[0] == _body("gpt-4o", ["gpt-4o"])
    assert (data[0]["object"], data[0]["type"], data[0]["display_name"]) == ("model", "model", "gpt-4o")
    assert (listed["object"], listed["has_more"], listed["first_id"], listed["last_id"]) == (
        "list", False, "gpt-4o", "smart",
    )  # fmt: skip


def test_a_list_of_no_models_is_a_list() -> None:
    assert _body("", [])["data"] == []


def test_an_unknown_model_is_a_404() -> None:
    denied = models_answer("no/such", ["smart"])
    assert isinstance(denied, Deny)
    assert denied.code is Code.MODEL_NOT_FOUND
