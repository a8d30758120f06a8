"""Which of a client's headers go upstream.

Only known ones. Left out on purpose: credentials; `openai-organization` and `openai-project`, which change who pays;
`openai-beta` and `anthropic-beta`, which can change price and mode (a dialect may know better); `user-agent` and
`x-stainless-*`, which describe a client that the provider does not talk to; `x-spendfuse-*`; and all framing, which
belongs to each connection.
"""

from collections.abc import Iterable, Mapping

PASSED = frozenset({"idempotency-key", "traceparent", "tracestate", "via", "x-client-request-id"})
NEVER_PASSED = frozenset(
    {
        "authorization",
        "api-key",
        "x-api-key",
        "x-goog-api-key",
        "proxy-authorization",
        "cookie",
        "openai-organization",
        "openai-project",
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-encoding",
        "content-type",
        "accept-encoding",
    }
)


def passed_names(extra: Iterable[str]) -> frozenset[bytes]:
    """The names that pass, with those that a config adds; it cannot add what never passes."""
    added = {name.lower() for name in extra}
    return frozenset(name.encode() for name in PASSED | (added - NEVER_PASSED) if not name.startswith("x-spendfuse-"))


def headers_passed(headers: Mapping[bytes, bytes], names: frozenset[bytes]) -> dict[str, str]:
    """The headers of these (lower case) names, without values that are not printable ASCII."""
    return {
        name.decode("ascii"): value.decode("ascii")
        for name, value in headers.items()
        if name in names and value.isascii() and value.decode("ascii").isprintable()
    }
