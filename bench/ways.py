"""The three ways of a call through the gateway, and the requests that are sent on them."""

import json
from dataclasses import dataclass

KEY = "sk-bench"
_SYSTEM = "You are a helpful assistant. " * 10
_PROMPT = "Explain what a ledger is in a few words. " * 10
MAX_TOKENS = 2_000


@dataclass(frozen=True, slots=True)
class Way:
    """One path of the gateway to one provider."""

    name: str
    path: str
    model: str

    @property
    def is_messages(self) -> bool:
        return self.path == "/v1/messages"

    def request(self, *, deltas: int = 0) -> bytes:
        """The bytes of a call: for a stream of so many deltas, or for a whole answer."""
        messages = [{"role": "user", "content": _PROMPT if not deltas else f"{_PROMPT} deltas={deltas}"}]
        body: dict[str, object] = {"model": self.model, "max_tokens": MAX_TOKENS, "stream": deltas > 0}
        if self.is_messages:
            credentials = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
            body |= {"system": _SYSTEM, "messages": messages, "metadata": {"user_id": "u1"}}
        else:
            credentials = {"authorization": f"Bearer {KEY}"}
            body |= {"messages": [{"role": "system", "content": _SYSTEM}, *messages], "user": "u1"}
        return post(self.path, json.dumps(body).encode(), credentials)


CHAT = Way("chat", "/v1/chat/completions", "gpt-4o-mini")
MESSAGES = Way("messages", "/v1/messages", "claude-haiku")
TRANSLATED = Way("translated", "/v1/chat/completions", "claude-haiku")
WAYS = (CHAT, MESSAGES, TRANSLATED)


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of one POST over a kept connection."""
    lines = [f"POST {path} HTTP/1.1", "host: bench", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body
