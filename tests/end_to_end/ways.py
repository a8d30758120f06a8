"""The ways a call can go: what a client sends on each, and what it reads."""

import json
from dataclasses import dataclass

from gateway import APP_KEY

CLAUDE_OUTPUT_MAX = 8_192


@dataclass(frozen=True, slots=True)
class Way:
    """One path of the gateway to one provider. Prices are nano-dollars a token."""

    name: str
    path: str
    model: str
    input_nanos: int
    output_nanos: int

    def __str__(self) -> str:
        return self.name

    @property
    def is_messages(self) -> bool:
        return self.path == "messages"

    @property
    def headers(self) -> dict[str, str]:
        """Credentials as the vendor's SDK sends them."""
        if self.is_messages:
            return {"x-api-key": APP_KEY, "anthropic-version": "2023-06-01"}
        return {"authorization": f"Bearer {APP_KEY}"}

    def body(self, prompt: str, *, max_tokens: int | None, stream: bool = False) -> dict[str, object]:
        """A request; where the API has to have a cap and none is given, it is the model's own."""
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": stream,
        }
        if max_tokens is None and self.is_messages:
            max_tokens = CLAUDE_OUTPUT_MAX
        return body if max_tokens is None else {**body, "max_tokens": max_tokens}

    def answer_id(self, begun_stream: bytes) -> str:
        """The provider's id of an answer, by the first event of its stream."""
        first = json.loads(begun_stream.partition(b"data: ")[2].partition(b"\n")[0])
        return str(first["message"]["id"] if self.is_messages else first["id"])


CHAT = Way("chat", "chat/completions", "gpt-4o-mini", 150, 600)
MESSAGES = Way("messages", "messages", "claude-haiku", 800, 4_000)
TRANSLATED = Way("translated", "chat/completions", "claude-haiku", 800, 4_000)
WAYS = (CHAT, MESSAGES, TRANSLATED)
