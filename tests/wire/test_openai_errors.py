import json

import pytest

from spendfuse.core.decisions import Reason, Refused, Shortfall
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.refusals import Code, Deny, deny_refused
from spendfuse.core.windows import Calendar, CalendarUnit, Span
from spendfuse.wire.dialect import Answer, Exchange
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_embeddings import OpenAIEmbeddings


def headers_of(answer: Answer) -> dict[str, str]:
    return dict(answer.headers)


def spent(limit: Limit, shortfall: Shortfall, *, retry_at_ms: int | None = None) -> Refused:
    reason = Reason(
        shortfall=shortfall,
        limit=limit,
        subject=json.dumps(["search"] * len(limit.each)),
        amount=5_000_000_000,
        settled=4_000_000_000,
        reserved=880_000_000,
        need=310_000_000,
        need_useful=200_000_000,
        resets_at_ms=1_800_000_000_000,
        retry_at_ms=retry_at_ms,
    )
    return Refused((reason,))


WEEK = Limit("feature-week", Unit.USD, 5_000_000_000, Calendar(CalendarUnit.WEEK), each=("feature",))


def test_a_spent_budget_shows_its_arithmetic_and_is_not_retried() -> None:
    answer = OpenAIChat().refuse(deny_refused(spent(WEEK, Shortfall.SPENT), 0))
    assert answer.status == 402
    assert headers_of(answer) == {"content-type": "application/json", "x-should-retry": "false"}
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "budget_exceeded", None)
    assert "$0.12 left" in error["message"]
    assert error["spendfuse"] == {
        "limits": [
            {
                "code": "budget_exceeded",
                "limit": "feature-week",
                "subject": {"feature": "search"},
                "unit": "usd",
                "period": "week",
                "amount": "5.00",
                "settled": "4.00",
                "reserved": "0.88",
                "left": "0.12",
                "need": "0.31",
                "need_at_least": "0.20",
                "resets_at": "2027-01-15T08:00:00.000Z",
                "retry_at": None,
            }
        ]
    }


def test_amounts_of_tokens_are_integers() -> None:
    limit = Limit("tokens", Unit.TOKENS, 5_000_000_000, Calendar(CalendarUnit.DAY))
    answer = OpenAIChat().refuse(deny_refused(spent(limit, Shortfall.SPENT), 0))
    (line,) = json.loads(answer.body)["error"]["spendfuse"]["limits"]
    assert (line["amount"], line["need"], line["subject"]) == (5_000_000_000, 310_000_000, {})


def test_a_rate_says_when_to_come_back() -> None:
    limit = Limit("rate", Unit.REQUESTS, 5, Span(60_000))
    answer = OpenAIEmbeddings().refuse(deny_refused(spent(limit, Shortfall.RATE, retry_at_ms=12_500), 10_000))
    assert answer.status == 429
    assert headers_of(answer) == {"content-type": "application/json", "retry-after": "3"}
    error = json.loads(answer.body)["error"]
    assert error["type"] == "rate_limit_error"
    assert error["spendfuse"]["limits"][0]["retry_at"] == "1970-01-01T00:00:12.500Z"


@pytest.mark.parametrize("code", Code)
def test_every_refusal_is_an_openai_error_that_steers_retries(code: Code) -> None:
    answer = OpenAIChat().refuse(Deny(code, 'say "no"', "n", retry_after_s=2))
    error = json.loads(answer.body)["error"]
    kind = {401: "authentication_error", 402: "insufficient_quota", 429: "rate_limit_error"}.get(
        code.status, "invalid_request_error" if code.status < 500 else "api_error"
    )
    assert error == {"message": 'say "no"', "type": kind, "param": "n", "code": code.text}
    assert answer.status == code.status
    may_retry = {None: None, True: "true", False: "false"}[code.may_retry]
    assert headers_of(answer).get("x-should-retry") == may_retry
    assert headers_of(answer)["retry-after"] == "2"


@pytest.mark.parametrize("exchange", [OpenAIChat(), OpenAIEmbeddings()])
def test_only_known_headers_go_upstream(exchange: Exchange) -> None:
    headers = {
        b"authorization": b"Bearer secret",
        b"x-spendfuse-user": b"u",
        b"openai-organization": b"org",
        b"openai-beta": b"assistants=v2",
        b"user-agent": b"OpenAI/Python",
        b"cookie": b"a=b",
        b"x-unknown": b"1",
        b"idempotency-key": b"k-1",
        b"traceparent": b"00-1-2-01",
        b"tracestate": "é".encode(),
        b"x-client-request-id": b"a\x01b",
    }
    assert exchange.headers_upstream(headers) == {"idempotency-key": "k-1", "traceparent": "00-1-2-01"}


def test_a_config_adds_headers_but_never_credentials() -> None:
    dialect = OpenAIChat(extra_headers=["X-Unknown", "Authorization", "Cookie", "X-Spendfuse-User"])
    headers = {b"x-unknown": b"1", b"authorization": b"s", b"cookie": b"c", b"x-spendfuse-user": b"u"}
    assert dialect.headers_upstream(headers) == {"x-unknown": "1"}
