"""Writes docs/reference/errors.md from the refusals themselves: `python tests/wire/errors_page.py`."""

import json
from pathlib import Path

from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.openai_chat import OpenAIChat

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
MEANINGS = {
    Code.BUDGET_EXCEEDED: "A limit of money or tokens is spent. Wait until it resets, or raise it.",
    Code.BUDGET_BUSY: "What is left of a limit is held by calls in flight. Retry, or lower the call's output cap.",
    Code.RATE_LIMIT_EXCEEDED: "A limit of requests or of calls in flight. Retry after the time that is given.",
    Code.CALL_EXCEEDS_LIMIT: "The call is larger than a whole limit. Send less input, or lower its output cap.",
    Code.MODEL_NOT_PRICED: "Nobody knows what the model costs. Set its `prices` in the config.",
    Code.MODEL_NOT_FOUND: "No model of this name in the config; `GET /v1/models` lists them.",
    Code.INVALID_API_KEY: "The key is missing, unknown or revoked.",
    Code.INVALID_REQUEST: "The request is wrong in itself, asks for what can neither be priced nor capped, or can't be "
    "carried to the provider of its model; `param` names the field.",
    Code.LABEL_REQUIRED: "A limit needs a label (`require: true`) that the call does not have.",
    Code.REQUEST_TOO_LARGE: "The body is larger than `body_bytes_max`.",
    Code.UNSUPPORTED_ENCODING: "The body is compressed.",
    Code.NOT_FOUND: "No such path.",
    Code.METHOD_NOT_ALLOWED: "Not the method of this path.",
    Code.LOOP_DETECTED: "A provider's `base_url` leads back to this gateway.",
    Code.BREAKER_OPEN: "A breaker that covers the call is open, so nothing was sent; the message says which, why, "
    "since when, and when it tries again, as does `Retry-After`.",
    Code.STORE_UNAVAILABLE: "The ledger can't be written, so nothing is admitted.",
    Code.PROVIDER_KEY_MISSING: "The environment had no key for this provider when the gateway started.",
    Code.UPSTREAM_UNREACHABLE: "No connection to the provider came about. Nothing was charged.",
    Code.UPSTREAM_FAILED: "The provider's connection broke, or its answer can't be used. The message says the charge.",
    Code.UPSTREAM_TIMEOUT: "The provider did not answer in time. The message says the charge.",
}
_INTRODUCTION = """\
# Errors

What Spendfuse itself answers instead of a provider. An error of the provider arrives as the provider sent it (on a
translated path in the client's own shape), with its status and its `Retry-After`.

The body has the shape of the API that the client speaks: OpenAI's `{"error": {"message", "type", "param", "code"}}`, or
Anthropic's `{"type": "error", "error": {"type", "message", …}}` with `code` and `param` beside. `message` says which
limit, for whom, its amount, what is left, what the call needed and when it resets; a refusal by limits has the same
numbers in `error.spendfuse.limits`, one object for each limit that refused: `limit`, `subject`, `unit`, `period`,
`amount`, `settled`, `reserved`, `left`, `need`, `need_at_least`, `resets_at`, `retry_at`; dollars are decimal strings.

The official SDKs retry by status, unless the header `x-should-retry` says `false`; where there is a `Retry-After` they
wait that long. A refusal changes no balance and writes no entry.

This page is written from the code by `python tests/wire/errors_page.py`, and a test keeps the two equal.

| `code` | status | type for OpenAI | type for Anthropic | SDKs retry | what it means |
|---|---|---|---|---|---|
"""
_RETRIES = {True: "yes", False: "no", None: "yes, later"}


def page() -> str:
    """The whole page."""
    return _INTRODUCTION + "".join(map(_row, Code))


def _row(code: Code) -> str:
    deny = Deny(code, "")
    openai, anthropic = (
        json.loads(dialect.refuse(deny).body)["error"]["type"] for dialect in (OpenAIChat(), AnthropicMessages())
    )
    retries = _RETRIES[code.may_retry]
    return f"| `{code.text}` | {code.status} | `{openai}` | `{anthropic}` | {retries} | {MEANINGS[code]} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
