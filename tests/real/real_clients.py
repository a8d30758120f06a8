"""The official SDKs, driven alike: what each was told of a call, whole or streamed, or left in the middle."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import anthropic
import openai
from anthropic.types import RawMessageStreamEvent
from gateway import APP_KEY, RunningGateway
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from real_model import Tokens
from recorder import tokens_of_chat, tokens_of_messages

SYSTEM = "Be brief."


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told of one call. `usage` is None where the stream was left before its end."""

    call_id: str
    answer_id: str
    text: str
    usage: Tokens | None
    cost_usd: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The gateway's refusal as the SDK raised it."""

    status: int
    code: object


class Client(Protocol):
    """One dialect's SDK, pointed at the gateway. Output is always capped: a base model never stops by itself."""

    path: str
    model: str

    def whole(self, prompt: str, *, cap: int) -> Told: ...

    def streamed(self, prompt: str, *, cap: int, pieces_max: int | None = None) -> Told:
        """Read a stream, or leave it after so many pieces of text."""
        ...

    def refusal(self, prompt: str, *, cap: int) -> Refused | None:
        """Make a call; why it was refused, or None."""
        ...


class ChatClient:
    path = "/v1/chat/completions"
    model = "gemma"

    def __init__(self, gateway: RunningGateway) -> None:
        self._sdk = openai.OpenAI(base_url=gateway.base_url, api_key=APP_KEY, max_retries=0)

    def whole(self, prompt: str, *, cap: int) -> Told:
        raw = self._sdk.chat.completions.with_raw_response.create(
            model=self.model, messages=self._messages(prompt), max_tokens=cap
        )
        answer = raw.parse()
        assert answer.usage is not None
        usage = tokens_of_chat(answer.usage.model_dump())
        text = answer.choices[0].message.content or ""
        return Told(raw.headers["x-spendfuse-call-id"], answer.id, text, usage, raw.headers["x-spendfuse-cost-usd"])

    def streamed(self, prompt: str, *, cap: int, pieces_max: int | None = None) -> Told:
        raw = self._sdk.chat.completions.with_raw_response.create(
            model=self.model,
            messages=self._messages(prompt),
            max_tokens=cap,
            stream=True,
            stream_options={"include_usage": True},
        )
        with closing(raw.parse()) as stream:
            return self._read(stream, raw.headers["x-spendfuse-call-id"], pieces_max)

    def _read(self, stream: Iterable[ChatCompletionChunk], call_id: str, pieces_max: int | None) -> Told:
        answer_id, pieces, usage = "", list[str](), None
        for chunk in stream:
            answer_id = chunk.id
            pieces += [one.delta.content for one in chunk.choices if one.delta.content]
            if chunk.usage is not None:
                usage = tokens_of_chat(chunk.usage.model_dump())
            if len(pieces) == pieces_max:
                break
        return Told(call_id, answer_id, "".join(pieces), usage, None)

    def refusal(self, prompt: str, *, cap: int) -> Refused | None:
        try:
            self.whole(prompt, cap=cap)
        except openai.APIStatusError as refused:
            return Refused(refused.status_code, refused.code)
        return None

    def _messages(self, prompt: str) -> list[ChatCompletionMessageParam]:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]


class MessagesClient:
    path = "/v1/messages"
    model = "gemma-messages"

    def __init__(self, gateway: RunningGateway) -> None:
        # This SDK adds `/v1` itself.
        self._sdk = anthropic.Anthropic(
            base_url=gateway.base_url.removesuffix("/v1"), api_key=APP_KEY, max_retries=0, timeout=60
        )

    def whole(self, prompt: str, *, cap: int) -> Told:
        raw = self._sdk.messages.with_raw_response.create(
            model=self.model, system=SYSTEM, messages=[{"role": "user", "content": prompt}], max_tokens=cap
        )
        answer = raw.parse()
        usage = tokens_of_messages(answer.usage.model_dump())
        text = "".join(block.text for block in answer.content if block.type == "text")
        return Told(raw.headers["x-spendfuse-call-id"], answer.id, text, usage, raw.headers["x-spendfuse-cost-usd"])

    def streamed(self, prompt: str, *, cap: int, pieces_max: int | None = None) -> Told:
        raw = self._sdk.messages.with_raw_response.create(
            model=self.model,
            system=SYSTEM,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=cap,
            stream=True,
        )
        with closing(raw.parse()) as stream:
            return self._read(stream, raw.headers["x-spendfuse-call-id"], pieces_max)

    def _read(self, stream: Iterable[RawMessageStreamEvent], call_id: str, pieces_max: int | None) -> Told:
        answer_id, pieces, fields, is_whole = "", list[str](), dict[str, object](), False
        for event in stream:
            if event.type == "message_start":
                answer_id = event.message.id
                fields |= event.message.usage.model_dump(exclude_none=True)
            elif event.type == "message_delta":
                fields |= event.usage.model_dump(exclude_none=True)
            elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                pieces.append(event.delta.text)
            is_whole = event.type == "message_stop"
            if len(pieces) == pieces_max:
                break
        return Told(call_id, answer_id, "".join(pieces), tokens_of_messages(fields) if is_whole else None, None)

    def refusal(self, prompt: str, *, cap: int) -> Refused | None:
        try:
            self.whole(prompt, cap=cap)
        except anthropic.APIStatusError as refused:
            error = refused.body.get("error") if isinstance(refused.body, dict) else None
            return Refused(refused.status_code, error.get("code") if isinstance(error, dict) else None)
        return None

    def count_tokens(self, prompt: str) -> int:
        counted = self._sdk.messages.count_tokens(
            model=self.model, system=SYSTEM, messages=[{"role": "user", "content": prompt}]
        )
        return counted.input_tokens


CLIENTS: dict[str, type[ChatClient] | type[MessagesClient]] = {"chat": ChatClient, "messages": MessagesClient}
