"""Which of Anthropic's betas pass, and the headers that go to its API.

A beta can change price, window and mode, so `anthropic-beta` is read like a field of the body: every name in it is
known here, or named in the config, or the call is refused. A name stands for all its dates.
"""

import re
from collections.abc import Iterable, Mapping

from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.fields import Field, Treatment, passing, refused
from spendfuse.wire.headers import headers_passed, passed_names

VERSION = "2023-06-01"
"""The version of the API for a client that names none."""
_VERSION_HEADER = "anthropic-version"
_BETA_HEADER = "anthropic-beta"
_DATE = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8})\Z")
_NAME_CHARACTERS_MAX = 80

BETAS: tuple[Field, ...] = (
    *passing(
        "prompt-caching prompt-caching-scope extended-cache-ttl", "what is written to a cache is priced from the body"
    ),
    *passing("cache-diagnosis token-counting", "not billed"),
    *passing("claude-code", "marks a client"),
    *passing("output-128k output-300k max-tokens-3-5-sonnet", "output is under the reserved cap, however large"),
    *passing(
        "interleaved-thinking adaptive-thinking dev-full-thinking effort task-budgets",
        "thinking is output, and the cap covers it",
    ),
    *passing(
        "redact-thinking thinking-token-count thinking-display-updates thinking-binding-controls",
        "thinking is billed whether it is shown or not",
    ),
    *passing("token-efficient-tools fine-grained-tool-streaming structured-outputs", "another form of the same output"),
    *passing("computer-use", "you run the tool; its instructions are in the quote"),
    *passing("advanced-tool-use tool-examples", "a tool that the provider runs is refused in `tools`"),
    *passing("pdfs", "documents are priced by their pages"),
    *passing("files-api", "a file that is only named is priced at the context window"),
    *passing("context-management", "edits that only clear input pass; any other is refused in the body"),
    *passing("model-context-window-exceeded", "another reason to stop"),
    *passing(
        "mid-conversation-tool-changes mid-conversation-output-config mid-conversation-system-clear-at",
        "what they add stands in the body, and counts as input",
    ),
    *refused("context-1m", "it widens the context window, and its price, beyond the one that quotes rest on"),
    *refused("fast-mode", "another price applies"),
    *refused("compact", "the provider writes a summary, whose tokens are billed beside the cap"),
    *refused("mcp-client mcp-tunnels mcp-servers", "the provider calls servers: its rounds have no cap"),
    *refused(
        "code-execution web-fetch web-search tool-search-tool skills advisor-tool",
        "the provider runs tools: their rounds have no cap, and some have fees",
    ),
    *refused("managed-agents agent-memory dreaming", "the provider runs agents: what they do has no cap"),
    *refused("inline-tools", "tools that the provider runs could stand where nobody looks for them"),
    *refused("server-side-fallback", "another model than the priced one could answer"),
    *refused("fallback-credit", "another price applies"),
    *refused("user-profiles user-profiles-billing", "somebody else's account could be billed"),
    *refused("message-threads", "what came before is held by the provider, so the input is not known"),
    *refused("message-batches", "answers would be fetched past the gateway"),
    *refused("oauth", "the credentials that go to the provider are the gateway's own"),
)
_WHY_REFUSED = {beta.name: beta.why for beta in BETAS if beta.treatment is Treatment.REFUSED}
_PASSING = frozenset(beta.name for beta in BETAS if beta.treatment is Treatment.PASSES)


class AnthropicHeaders:
    """The headers of requests to Anthropic's API: which refuse a call, and which go along."""

    def __init__(self, *, extra: Iterable[str] = (), betas: Iterable[str] = ()) -> None:
        """`extra` headers pass beside the known ones. `betas`, by name with or without a date, pass whatever the table
        says: whoever configures them answers for their price.
        """
        self._names = passed_names(extra)
        self._allowed = frozenset(betas)

    def refusal(self, headers: Mapping[bytes, bytes]) -> Deny | None:
        """The refusal of a request for the first beta in its headers that may not pass; None when all may."""
        for beta in _betas_in(headers):
            if self._may_pass(beta):
                continue
            known = beta if beta in _WHY_REFUSED else _DATE.sub("", beta)
            why = _WHY_REFUSED.get(known, "it is not known, and a beta can change price and mode")
            named = f"`{beta[:_NAME_CHARACTERS_MAX]}`"
            message = f"header {_BETA_HEADER}: {named} is refused: {why}. `betas:` in the config lets it pass"
            return Deny(Code.INVALID_REQUEST, message, _BETA_HEADER)
        return None

    def upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """The headers that go along: known ones, the version (ours where the client names none) and its betas."""
        passed = headers_passed(headers, self._names | {_VERSION_HEADER.encode()})
        passed.setdefault(_VERSION_HEADER, VERSION)
        passed.pop(_BETA_HEADER, None)
        betas = [beta for beta in _betas_in(headers) if self._may_pass(beta)]
        if betas:
            passed[_BETA_HEADER] = ",".join(betas)
        return passed

    def _may_pass(self, beta: str) -> bool:
        names = {beta, _DATE.sub("", beta)}
        return bool(names & self._allowed or names & _PASSING)


def _betas_in(headers: Mapping[bytes, bytes]) -> list[str]:
    value = headers.get(_BETA_HEADER.encode(), b"").decode("ascii", errors="replace")
    return [beta for one in value.split(",") if (beta := one.strip())]
