import json

import pytest
from test_openai_errors import WEEK, spent

from spendfuse.core.decisions import Shortfall
from spendfuse.core.refusals import Code, Deny, deny_refused
from spendfuse.wire.anthropic_errors import error_type
from spendfuse.wire.anthropic_messages import AnthropicMessages


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, "invalid_request_error"), (401, "authentication_error"), (402, "billing_error")),
        *((403, "permission_error"), (404, "not_found_error"), (405, "invalid_request_error")),
        *((413, "request_too_large"), (415, "invalid_request_error"), (429, "rate_limit_error")),
        *((500, "api_error"), (502, "api_error"), (503, "overloaded_error"), (504, "timeout_error")),
        (529, "overloaded_error"),
    ],
)
def test_an_error_has_the_vendors_type_for_its_status(status: int, kind: str) -> None:
    assert error_type(status) == kind


def test_a_spent_budget_shows_its_arithmetic_and_is_not_retried() -> None:
    answer = AnthropicMessages().refuse(deny_refused(spent(WEEK, Shortfall.SPENT), 0))
    assert answer.status == 402
    assert dict(answer.headers) == {"content-type": "application/json", "x-should-retry": "false"}
    body = json.loads(answer.body)
    assert (body["type"], body["error"]["type"], body["error"]["code"]) == ("error", "billing_error", "budget_exceeded")
    assert "$0.12 left" in body["error"]["message"]
    (line,) = body["error"]["spendfuse"]["limits"]
    assert (line["limit"], line["subject"], line["left"], line["need"]) == (
        "feature-week",
        {"feature": "search"},
        "0.12",
        "0.31",
    )


@pytest.mark.parametrize("code", Code)
def test_every_refusal_is_an_anthropic_error_that_steers_retries(code: Code) -> None:
    answer = AnthropicMessages().refuse(Deny(code, 'say "no"', "n", retry_after_s=2))
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {
            "type": error_type(code.status),
            "message": 'say "no"',
            "code": code.text,
            "param": "n",
            "details": {"error_code": code.text},
        },
    }
    assert answer.status == code.status
    may_retry = {None: None, True: "true", False: "false"}[code.may_retry]
    assert dict(answer.headers).get("x-should-retry") == may_retry
    assert dict(answer.headers)["retry-after"] == "2"
