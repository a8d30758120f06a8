from collections import Counter

import pytest
from anthropic_fields_page import PAGE, page
from anthropic_recorded import messages_body, messages_call
from recorded import refused

from spendfuse.core.calls import Call
from spendfuse.core.refusals import Deny
from spendfuse.wire.anthropic_betas import BETAS
from spendfuse.wire.anthropic_count import AnthropicCountTokens
from spendfuse.wire.anthropic_fields import COUNT_FIELDS, MESSAGES_FIELDS
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.dialect import WireTarget
from spendfuse.wire.fields import Field, Treatment
from spendfuse.wire.json_body import Json, read_object

VALUES: dict[str, Json] = {
    "service_tier": "auto",
    "stream": True,
    "messages": [{"role": "user", "content": "x"}],
    "system": "Be brief.",
    "tools": [{"name": "f", "input_schema": {}}],
    "thinking": {"type": "adaptive"},
    "metadata": {"user_id": "u"},
}


def names(fields: tuple[Field, ...], *treatments: Treatment) -> list[str]:
    return [field.name for field in fields if field.treatment in treatments]


def with_betas(*betas: str) -> dict[bytes, bytes]:
    return {b"anthropic-beta": ",".join(betas).encode()}


def test_the_reference_page_says_what_the_code_does() -> None:
    assert PAGE.read_text() == page(), "run: python tests/wire/anthropic_fields_page.py"


@pytest.mark.parametrize("fields", [MESSAGES_FIELDS, COUNT_FIELDS, BETAS])
def test_a_field_or_beta_has_one_treatment(fields: tuple[Field, ...]) -> None:
    assert max(Counter(field.name for field in fields).values()) == 1


@pytest.mark.parametrize("name", names(MESSAGES_FIELDS, Treatment.REFUSED))
def test_a_refused_field_is_a_400_unless_null_or_false(name: str) -> None:
    value: Json = {"x": 1}
    deny = refused(AnthropicMessages().parse(messages_body(**{name: value})))
    assert deny.param == name
    assert deny.message.startswith(f"`{name}` is refused: ")
    messages_call(**{name: None})
    messages_call(**{name: False})


@pytest.mark.parametrize("name", names(COUNT_FIELDS, Treatment.REFUSED))
def test_a_refused_field_of_a_count_is_a_400(name: str) -> None:
    assert refused(AnthropicCountTokens().parse(messages_body(**{name: True}))).param == name


@pytest.mark.parametrize("name", names(MESSAGES_FIELDS, Treatment.PASSES, Treatment.PRICED))
def test_a_field_that_is_not_ours_goes_up_unaltered(name: str) -> None:
    value = VALUES.get(name, {"any": "thing"} if name != "context_management" else {"edits": []})
    call = messages_call(**{name: value})
    assert read_object(AnthropicMessages().render(call, WireTarget("m"), cap=5))[name] == value


@pytest.mark.parametrize("beta", names(BETAS, Treatment.PASSES))
@pytest.mark.parametrize("date", ["", "-2031-01-02", "-20310102"])
@pytest.mark.parametrize("dialect", [AnthropicMessages(), AnthropicCountTokens()])
def test_a_known_beta_passes_whatever_its_date(
    beta: str, date: str, dialect: AnthropicMessages | AnthropicCountTokens
) -> None:
    headers = with_betas(beta + date)
    assert isinstance(dialect.parse(messages_body(), headers), Call)
    assert dialect.headers_upstream(headers)["anthropic-beta"] == beta + date


@pytest.mark.parametrize("beta", [one for one in BETAS if one.treatment is Treatment.REFUSED], ids=lambda one: one.name)
@pytest.mark.parametrize("dialect", [AnthropicMessages(), AnthropicCountTokens()])
def test_a_refused_beta_is_a_400_that_says_why(beta: Field, dialect: AnthropicMessages | AnthropicCountTokens) -> None:
    name = f"{beta.name}-2025-08-07"
    headers = with_betas("prompt-caching-2024-07-31", name)
    deny = refused(dialect.parse(messages_body(), headers))
    assert deny.param == "anthropic-beta"
    assert f"`{name}` is refused: {beta.why}" in deny.message
    assert dialect.headers_upstream(headers)["anthropic-beta"] == "prompt-caching-2024-07-31"


@pytest.mark.parametrize(
    "beta", ["brand-new-2027-01-01", "x", "prompt-caching-2", "prompt-cachin", "Prompt-Caching", "é", "-2025-01-01"]
)
def test_an_unknown_beta_is_a_400_that_names_it_and_the_way_out(beta: str) -> None:
    deny = refused(AnthropicMessages().parse(messages_body(), with_betas(beta)))
    assert deny.param == "anthropic-beta"
    assert "`betas:` in the config" in deny.message
    assert not beta.isascii() or f"`{beta}`" in deny.message


def test_a_long_beta_is_not_repeated_in_full() -> None:
    assert len(refused(AnthropicMessages().parse(messages_body(), with_betas("x" * 9_000))).message) < 300


@pytest.mark.parametrize("named", ["context-1m", "context-1m-2025-08-07"])
def test_a_config_lets_a_beta_pass(named: str) -> None:
    dialect = AnthropicMessages(betas=[named])
    headers = with_betas("context-1m-2025-08-07", "claude-code-20250219")
    assert isinstance(dialect.parse(messages_body(), headers), Call)
    assert dialect.headers_upstream(headers)["anthropic-beta"] == "context-1m-2025-08-07,claude-code-20250219"
    assert isinstance(dialect.parse(messages_body(), with_betas("fast-mode-2026-02-01")), Deny)


@pytest.mark.parametrize("value", [b"", b" ", b",", b" , ,"])
def test_a_header_without_a_beta_is_none(value: bytes) -> None:
    headers = {b"anthropic-beta": value}
    assert isinstance(AnthropicMessages().parse(messages_body(), headers), Call)
    assert "anthropic-beta" not in AnthropicMessages().headers_upstream(headers)


@pytest.mark.parametrize(
    ("sent", "goes_up"), [(b"2026-10-21", "2026-10-21"), (b"x", "x"), (None, "2023-06-01"), (b"a\x01", "2023-06-01")]
)
def test_a_version_goes_up_as_it_came_and_is_set_where_there_is_none(sent: bytes | None, goes_up: str) -> None:
    headers = {} if sent is None else {b"anthropic-version": sent}
    assert AnthropicMessages().headers_upstream(headers) == {"anthropic-version": goes_up}


@pytest.mark.parametrize("dialect", [AnthropicMessages(), AnthropicCountTokens()])
def test_only_known_headers_go_up(dialect: AnthropicMessages | AnthropicCountTokens) -> None:
    headers = {
        b"authorization": b"Bearer secret",
        b"x-api-key": b"secret",
        b"x-spendfuse-user": b"u",
        b"anthropic-workspace-id": b"wrkspc_1",
        b"anthropic-user-profile-id": b"p",
        b"anthropic-dangerous-direct-browser-access": b"true",
        b"x-stainless-lang": b"python",
        b"traceparent": b"00-1-2-01",
        b"anthropic-version": b"2023-06-01",
    }
    assert dialect.headers_upstream(headers) == {"traceparent": "00-1-2-01", "anthropic-version": "2023-06-01"}


def test_a_config_adds_headers_but_never_an_unread_beta() -> None:
    dialect = AnthropicMessages(extra_headers=["X-Unknown", "Anthropic-Beta", "X-Api-Key"])
    headers = {b"x-unknown": b"1", b"anthropic-beta": b"nobody-knows", b"x-api-key": b"s"}
    assert dialect.headers_upstream(headers) == {"x-unknown": "1", "anthropic-version": "2023-06-01"}
