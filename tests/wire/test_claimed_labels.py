import pytest
from recorded import chat_body, chat_call, refused

from spendfuse.core.calls import Call
from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.json_body import Json
from spendfuse.wire.labels import TAGS_MAX, labels_from_headers
from spendfuse.wire.openai_chat import OpenAIChat


def test_headers_name_labels_and_tags() -> None:
    headers = [
        (b"host", b"gateway"),
        (b"x-spendfuse-user", "Zoë ".encode()),
        (b"x-spendfuse-organization", b"acme"),
        (b"x-spendfuse-feature", b"search"),
        (b"x-spendfuse-run", b"r1"),
        (b"x-spendfuse-tags", b"team=blue, env = prod=eu"),
        (b"x-spendfuse-something", b"ignored"),
    ]
    assert labels_from_headers(headers) == {
        "user": "Zoë",
        "organization": "acme",
        "feature": "search",
        "run": "r1",
        "team": "blue",
        "env": "prod=eu",
    }


def test_a_header_is_taken_as_it_is_without_percent_decoding() -> None:
    assert labels_from_headers([(b"x-spendfuse-user", b"a%20b")]) == {"user": "a%20b"}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([(b"x-spendfuse-user", b"")], "0 bytes"),
        ([(b"x-spendfuse-user", b"x" * 129)], "129 bytes"),
        ([(b"x-spendfuse-user", b"a\x00b")], "control character"),
        ([(b"x-spendfuse-user", b"Zo\xeb")], "not valid UTF-8"),
        ([(b"x-spendfuse-user", b"a"), (b"x-spendfuse-user", b"b")], "comes twice"),
        ([(b"x-spendfuse-tags", b"team")], "has no value"),
        ([(b"x-spendfuse-tags", b"team=a,team=b")], "comes twice"),
        ([(b"x-spendfuse-tags", b"te am=a")], "label name"),
        ([(b"x-spendfuse-tags", b"team=a,")], "label name"),
        ([(b"x-spendfuse-tags", b"key=other")], "'key' is not a tag"),
        ([(b"x-spendfuse-tags", b"user=other")], "'user' is not a tag"),
        ([(b"x-spendfuse-tags", b"fingerprint=x")], "is not a tag"),
        ([(b"x-spendfuse-tags", b",".join(b"t%d=x" % at for at in range(TAGS_MAX + 1)))], "more than 16 tags"),
    ],
)
def test_an_invalid_header_is_a_400_that_names_it(headers: list[tuple[bytes, bytes]], message: str) -> None:
    deny = labels_from_headers(headers)
    assert isinstance(deny, Deny)
    assert deny.code is Code.INVALID_REQUEST
    assert message in deny.message
    assert deny.param == headers[0][0].decode()


def test_a_body_claims_labels_in_metadata_and_then_user() -> None:
    call = chat_call(
        user="u-7",
        metadata={"user_id": "u-1", "organization_id": "acme", "feature": "search", "run_id": "r", "team": "blue"},
    )
    assert call.claimed == {"user": "u-1", "organization": "acme", "feature": "search", "run": "r", "team": "blue"}


def test_user_alone_is_the_label_user() -> None:
    assert chat_call(user=" u-7 ", safety_identifier="s", metadata=None).claimed == {"user": "u-7"}


@pytest.mark.parametrize("name", ["key", "ip", "model", "provider", "target", "fingerprint"])
def test_a_body_cannot_claim_what_only_the_gateway_knows(name: str) -> None:
    call = OpenAIChat().parse(chat_body(metadata={name: "spoofed", "team": "blue"}))
    assert isinstance(call, Call)
    assert call.claimed == {"team": "blue"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"user": ""}, "user"),
        ({"user": "x" * 129}, "user"),
        ({"user": "a\nb"}, "user"),
        ({"user": 7}, "user"),
        ({"user": "a\nb", "metadata": {"user_id": "u"}}, "user"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": ["x"]}, "metadata"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"metadata": {"user_id": None}}, "metadata.user_id"),
        ({"metadata": {"team": ""}}, "metadata.team"),
        ({"metadata": {"a b": "x"}}, "metadata.a b"),
        ({"metadata": {f"t{at}": "x" for at in range(17)}}, "metadata"),
    ],
)
def test_an_invalid_label_in_a_body_is_a_400_that_names_it(fields: dict[str, Json], param: str) -> None:
    assert refused(OpenAIChat().parse(chat_body(**fields))).param == param
