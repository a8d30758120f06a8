"""What a client can tell of an answer: whether it was served, refused by whom, and whether asking again can help."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import orjson

from spendfuse.core.refusals import Code
from spendfuse.wire.dialect import Answer

PASSED = range(200, 300)
_BREAKER = re.compile(r'breaker "([^"]+)"')
"""How the message of an open breaker begins."""
_OURS = {code.text: code for code in Code}
_HOPELESS = frozenset(
    {
        Code.CALL_EXCEEDS_LIMIT,
        Code.MODEL_NOT_PRICED,
        Code.MODEL_NOT_FOUND,
        Code.INVALID_REQUEST,
        Code.LABEL_REQUIRED,
        Code.REQUEST_TOO_LARGE,
        Code.PROVIDER_KEY_MISSING,
    }
)
"""The same call is always refused with these."""
_OF_PROVIDER = frozenset({Code.UPSTREAM_UNREACHABLE, Code.UPSTREAM_FAILED, Code.UPSTREAM_TIMEOUT})
"""Said by the gateway, but no refusal: the call went to its provider."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer. `refused_by` is empty for one of the provider's; else what of Spendfuse refused the call: the limit,
    or in words what it was. `is_final`: it will be refused until the drill's end.
    """

    status: int
    refused_by: str = ""
    is_final: bool = False
    retry_after_s: float | None = None
    should_retry: bool | None = None


def heard(answer: Answer, *, ends_at_s: float) -> Heard:
    """Read an answer, refusals by their arithmetic."""
    if answer.status in PASSED:
        return Heard(answer.status)
    headers = dict(answer.headers)
    after = headers.get("retry-after")
    may = headers.get("x-should-retry")
    error = cast("Mapping[str, object]", orjson.loads(answer.body).get("error", {}))
    code = _OURS.get(str(error.get("code")))
    limits = _limits(error)
    return Heard(
        answer.status,
        refused_by=_refuser(code, limits, str(error.get("message"))),
        is_final=code in _HOPELESS
        or (code is Code.BUDGET_EXCEEDED and any(_outlasts(one, ends_at_s) for one in limits)),
        retry_after_s=None if after is None else float(after),
        should_retry=None if may is None else may == "true",
    )


def _limits(error: Mapping[str, object]) -> list[Mapping[str, str | None]]:
    ours = cast("Mapping[str, object]", error.get("spendfuse") or {})
    return cast("list[Mapping[str, str | None]]", ours.get("limits") or [])


def _refuser(code: Code | None, limits: list[Mapping[str, str | None]], message: str) -> str:
    if code is None or code in _OF_PROVIDER:
        return ""
    # What is spent comes first: a rate that refuses too would pass again.
    named = sorted(limits, key=lambda one: one["code"] != code.text)
    if named:
        return str(named[0]["limit"])
    breaker = _BREAKER.match(message)
    return f"breaker {breaker[1]}" if breaker else code.text.replace("_", " ")


def _outlasts(limit: Mapping[str, str | None], ends_at_s: float) -> bool:
    """Whether what is spent stays so until the end."""
    if limit["code"] != Code.BUDGET_EXCEEDED.text:
        return False
    resets_at = limit["resets_at"]
    if resets_at is None:
        return True
    return datetime.fromisoformat(resets_at).timestamp() >= ends_at_s
